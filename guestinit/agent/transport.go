package agent

import "io"

// Conn is a connection with the host. Closing it ends a Read or Write that is going on.
type Conn interface {
	io.ReadWriteCloser
	// CloseWrite tells the host that no more will come.
	CloseWrite() error
}

// Listener takes connections of the host.
type Listener interface {
	Accept() (Conn, error)
	Close() error
}

// Transport connects guest and host; vsock in a guest, Unix sockets in tests.
type Transport interface {
	Listen(port uint32) (Listener, error)
	Dial(port uint32) (Conn, error) // the host's port
}
