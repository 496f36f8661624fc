package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hullvm/hull/guestinit/proto"
)

// socketName is the host's end of a VM's vsock device, in a directory with such sockets only.
// The protocol is Firecracker's: a connection that begins with "CONNECT port"
// reaches the guest; a guest that connects to the host's port N reaches whoever
// listens on the socket with "_N" at its name's end.
const socketName = "vsock.sock"

// guestCID is the guest's address on its vsock. Each VM has a device of its own,
// so that all may have the same.
const guestCID = 3

// maxSocketPath is the longest path of a Unix socket: sun_path of unix(7) less
// the final zero.
const maxSocketPath = 107

// hostSocket is where the guest reaches a port of the host.
func hostSocket(socket string, port int) string {
	return socket + "_" + strconv.Itoa(port)
}

// listenHost opens a port of the host for the guest whose device is at socket.
func listenHost(socket string, port int) (*net.UnixListener, error) {
	path := hostSocket(socket, port)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s: %d characters, at most %d are possible: choose a shorter runtime directory with $HULL_RUN_DIR", path, len(path), maxSocketPath)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for the guest: %w", err)
	}
	return l, nil
}

// dialGuest connects to a port of the guest.
func dialGuest(ctx context.Context, socket string, port int) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connecting to port %d of the guest: %w", port, err)
	}
	conn := c.(*net.UnixConn) // "unix" makes no other
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = askForPort(conn, port)
	if !stop() && err != nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connecting to port %d of the guest: %w", port, err)
	}
	return conn, nil
}

// errRefused says that nobody in the guest listens on the port.
var errRefused = errors.New("refused by the guest")

// askForPort does the handshake. It reads not a byte more than the answer has.
func askForPort(conn net.Conn, port int) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	var answer []byte
	for b := make([]byte, 1); len(answer) < 32; {
		if n, err := conn.Read(b); n == 0 {
			if err != nil && len(answer) == 0 {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			return fmt.Errorf("answer %q is cut short", answer)
		}
		if b[0] == '\n' {
			break
		}
		answer = append(answer, b[0])
	}
	if number, ok := strings.CutPrefix(string(answer), "OK "); ok {
		if _, err := strconv.ParseUint(number, 10, 32); err == nil {
			return nil
		}
	}
	return fmt.Errorf("unexpected answer %q", answer)
}

// openStream connects one stream of a process in the guest.
func openStream(ctx context.Context, socket, process, stream string) (*net.UnixConn, error) {
	conn, err := dialGuest(ctx, socket, proto.PortStream)
	if err != nil {
		return nil, err
	}
	if err := proto.OpenStream(conn, process, stream); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// acceptAgent waits until the guest's agent has come and said hello.
func acceptAgent(ctx context.Context, l *net.UnixListener) (*proto.Client, error) {
	_ = l.SetDeadline(time.Time{}) // who waited before may have given up; it fails when the listener is closed, which is next
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := l.AcceptUnix()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("waiting for the guest's agent: %w", err)
	}
	return proto.Dial(ctx, conn, nil)
}

// CheckRunDir tells whether the runtime directory's path leaves room for the
// names of sockets in it.
func CheckRunDir(dir string) error {
	longest := hostSocket((&store{dirs: Dirs{Run: dir}}).vmDir(newID())+"/"+socketName, proto.PortControl)
	if len(longest) > maxSocketPath {
		return fmt.Errorf("runtime directory %s: its path is %d characters too long for sockets; choose a shorter one with $HULL_RUN_DIR", dir, len(longest)-maxSocketPath)
	}
	return nil
}
