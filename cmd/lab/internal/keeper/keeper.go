// Package keeper keeps a machine running between commands: "lab start" leaves a
// process behind that owns the machine and listens on a Unix socket, "lab run"
// talks to the machine through it, "lab stop" ends it.
//
// Each connection to the socket is one stream to the machine's agent; the keeper looks
// at the first frame only, to answer by itself what concerns the machine as a whole.
// The file NAME.lock is locked as long as the keeper lives, whatever else it left behind.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"github.com/hullvm/hull/cmd/lab/internal/mux"
	"github.com/hullvm/hull/cmd/lab/internal/outer"
	"github.com/hullvm/hull/cmd/lab/internal/wire"
)

var (
	// ErrNone is wrapped by the error of talking to a machine that does not run.
	ErrNone = errors.New("no such lab is running (lab start)")
	// ErrRunning is wrapped by the error of starting a machine a second time.
	ErrRunning = errors.New("it is running already")
)

// EnvDir names the environment variable with the directory of started machines,
// instead of the user's runtime directory.
const EnvDir = "HULL_LAB_DIR"

// A Place is where the files of a started machine are.
type Place struct{ dir, name string }

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// At returns the place of the machine called name. The directory exists afterwards and
// belongs to the user alone: whoever may talk to the keeper is root in the machine.
func At(name string) (Place, error) {
	if !validName.MatchString(name) {
		return Place{}, fmt.Errorf("lab: name %q: want letters, digits, '.', '_' and '-'", name)
	}
	dir := os.Getenv(EnvDir)
	if dir == "" {
		switch runtime := os.Getenv("XDG_RUNTIME_DIR"); {
		case os.Getuid() == 0:
			dir = "/run/hull-lab"
		case runtime != "":
			dir = filepath.Join(runtime, "hull-lab")
		default:
			dir = filepath.Join(os.TempDir(), fmt.Sprintf("hull-lab-%d", os.Getuid()))
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Place{}, fmt.Errorf("lab: %w", err)
	}
	if err := checkPrivate(dir); err != nil {
		return Place{}, err
	}
	return Place{dir, name}, nil
}

func (p Place) path(suffix string) string { return filepath.Join(p.dir, p.name+suffix) }

// Log is the path of the file with what a keeper had to say.
func (p Place) Log() string { return p.path(".log") }

// A Keeper owns one machine.
type Keeper struct {
	place    Place
	lock     *flock.Flock
	listener *net.UnixListener
	machine  *outer.Machine
	status   wire.Status
	commands atomic.Int64
	stop     chan struct{}
	once     sync.Once
}

// Start boots a machine and listens for commands to it.
func Start(ctx context.Context, place Place, config outer.Config) (*Keeper, error) {
	lock := flock.New(place.path(".lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lab: locking %s: %w", place.path(".lock"), err)
	}
	if !locked {
		return nil, fmt.Errorf("lab %s: %w", place.name, ErrRunning)
	}
	machine, err := outer.Start(ctx, config)
	if err != nil {
		lock.Unlock()
		return nil, err
	}
	// A socket that a killed keeper left behind: the lock is ours now.
	os.Remove(place.path(".sock"))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: place.path(".sock"), Net: "unix"})
	if err != nil {
		machine.Close()
		lock.Unlock()
		return nil, fmt.Errorf("lab: %w", err)
	}
	return &Keeper{
		place:    place,
		lock:     lock,
		listener: listener,
		machine:  machine,
		status: wire.Status{
			PID: os.Getpid(), Started: time.Now().Round(0),
			CPUs: config.CPUs, Memory: config.Memory, Deterministic: config.Deterministic,
		},
		stop: make(chan struct{}),
	}, nil
}

// Serve carries connections until the machine has ended or is told to. The error
// is why it ended by itself.
func (k *Keeper) Serve(ctx context.Context) error {
	go func() {
		for {
			conn, err := k.listener.AcceptUnix()
			if err != nil {
				return
			}
			go k.serve(conn)
		}
	}()
	select {
	case <-ctx.Done():
	case <-k.stop:
	case <-k.machine.Done():
	}
	os.Remove(k.place.path(".sock"))
	k.listener.Close()
	// After Close, Err is nil unless the machine ended before.
	k.machine.Close()
	err := k.machine.Err()
	k.lock.Unlock()
	return err
}

// serve answers one connection.
func (k *Keeper) serve(conn *net.UnixConn) {
	defer conn.Close()
	kind, payload, err := wire.Read(conn)
	if err != nil {
		return
	}
	switch kind {
	case wire.KindStatus:
		status := k.status
		status.Commands = int(k.commands.Load())
		_ = wire.WriteJSON(conn, wire.KindStatus, status)
	case wire.KindStop:
		k.once.Do(func() { close(k.stop) })
		<-k.machine.Done()
	case wire.KindRequest:
		k.commands.Add(1)
		defer k.commands.Add(-1)
		stream, err := k.machine.Open()
		if err != nil {
			return
		}
		defer stream.Close()
		if wire.Write(stream, kind, payload) == nil {
			relay(conn, stream)
		}
	}
}

// relay passes bytes both ways until both directions have ended, or one broke.
func relay(conn *net.UnixConn, stream *mux.Stream) {
	in := make(chan struct{})
	go func() {
		defer close(in)
		// The command's owner is gone when its connection ends: the stream's end says so.
		if _, err := io.Copy(stream, conn); err == nil {
			_ = stream.CloseWrite()
		}
	}()
	if _, err := io.Copy(conn, stream); err == nil {
		_ = conn.CloseWrite()
		<-in
		return
	}
	conn.Close()
	<-in
}
