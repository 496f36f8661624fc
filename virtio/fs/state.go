package fs

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/hullvm/hull/virtio"
)

// Versions of the state, its first byte: nothing follows on unmounted, a savedSession on mounted.
const (
	unmounted = 1
	mounted   = 2
)

// savedSession is a session in a snapshot.
type savedSession struct {
	Init  []byte          `json:"init"`  // the request that it began with, for what was agreed on
	Files json.RawMessage `json:"files"` // what FileSystem.Save returned
}

// SaveState implements virtio.Snapshotter. While the guest has the file system mounted, it fails when there is something open that
// could not be opened again.
func (d *Device) SaveState() ([]byte, error) {
	d.session.mu.Lock()
	defer d.session.mu.Unlock()
	if d.session.server == nil {
		return []byte{unmounted}, nil
	}
	files, err := d.cfg.FileSystem.Save()
	if err != nil {
		return nil, fmt.Errorf("share %q: %w: %w", d.cfg.Tag, virtio.ErrUnsaved, err)
	}
	p, err := json.Marshal(savedSession{d.session.init, files})
	if err != nil {
		return nil, fmt.Errorf("share %q: %w", d.cfg.Tag, err)
	}
	return append([]byte{mounted}, p...), nil
}

// RestoreState implements virtio.Snapshotter: the session goes on with the files that have now the names that they had then.
func (d *Device) RestoreState(p []byte) error {
	d.session.mu.Lock()
	defer d.session.mu.Unlock()
	if len(p) == 1 && p[0] == unmounted {
		return nil
	}
	if len(p) == 0 || p[0] != mounted {
		return fmt.Errorf("share %q: %w: %d bytes, % x", d.cfg.Tag, virtio.ErrState, len(p), p[:min(len(p), 8)])
	}
	var s savedSession
	err := json.Unmarshal(p[1:], &s)
	if err == nil {
		err = checkInit(s.Init)
	}
	if err == nil {
		err = d.cfg.FileSystem.Restore(s.Files)
	}
	if err != nil {
		return fmt.Errorf("share %q: %w: %w", d.cfg.Tag, virtio.ErrState, err)
	}
	d.session.begin(s.Init)
	// It is answered as it was then, to nobody.
	d.session.server.HandleRequest([][]byte{s.Init}, [][]byte{make([]byte, operations[opInit].out)})
	return nil
}

// checkInit makes sure that a saved message is such an INIT as handle lets through.
func checkInit(b []byte) error {
	if len(b) < inHeaderSize || binary.LittleEndian.Uint32(b[atOpcode:]) != opInit || binary.LittleEndian.Uint64(b[atNodeID:])&NodeBit == 0 {
		return fmt.Errorf("the session did not begin with INIT but with % x", b[:min(len(b), inHeaderSize)])
	}
	le, was := binary.LittleEndian, binary.LittleEndian.Uint64(b[atNodeID:])
	le.PutUint64(b[atNodeID:], was&^NodeBit)
	op, errno := lookUp(b, len(b))
	le.PutUint64(b[atNodeID:], was)
	if errno == 0 {
		errno = op.check(b, len(b), op.out)
	}
	if errno == 0 {
		errno = checkVersion(b)
	}
	if errno != 0 {
		return fmt.Errorf("the session began with what is no INIT: %w", errno)
	}
	return nil
}
