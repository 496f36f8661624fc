package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Status is where a container is in its life.
type Status string

// The states of a container. Those between created and exited belong to a living
// process that holds their lock; else they are stale.
const (
	StatusCreated    Status = "created"    // has not run, or could not be started
	StatusStarting   Status = "starting"   // its VM boots
	StatusRunning    Status = "running"    // its workload runs
	StatusPaused     Status = "paused"     // its VM stands still
	StatusRestarting Status = "restarting" // its workload has ended, and is going to be started again
	StatusExited     Status = "exited"     // its workload has ended
	StatusDead       Status = "dead"       // its record cannot be read: good only for removal
)

// recordVersion is the version of the record format. A record of a later one is
// shown as dead rather than misread.
const recordVersion = 1

// Record is what is kept about a container: the file container.json.
type Record struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`

	Config      Config      `json:"config"`
	ImageID     string      `json:"image_id"` // digest, with its algorithm
	ImageConfig ImageConfig `json:"image_config"`

	State State `json:"state"`
}

// State is the part of a record that changes.
type State struct {
	Status     Status        `json:"status"`
	Supervisor ProcessRef    `json:"supervisor,omitzero"` // whoever started the VM and answers for it
	VM         ProcessRef    `json:"vm,omitzero"`
	Ports      []PortBinding `json:"ports,omitempty"` // published now
	Group      *GroupState   `json:"group,omitempty"` // of the VM's process
	Started    time.Time     `json:"started,omitzero"`
	Finished   time.Time     `json:"finished,omitzero"`
	ExitCode   int           `json:"exit_code"`
	OOMKilled  bool          `json:"oom_killed,omitempty"`
	Error      string        `json:"error,omitempty"` // why it did not start or ended early
	// LogLost is how many entries of its log could not be kept since it was started, as when the disk was full.
	LogLost int `json:"log_lost,omitempty"`

	RestartCount int `json:"restart_count,omitempty"` // starts by its restart policy since the user's
	// StoppedByUser says that its restart policy is not to start it.
	StoppedByUser bool    `json:"stopped_by_user,omitempty"`
	Health        *Health `json:"health,omitempty"` // nil: it has no health check, or does not run
	// Checkpoint is the directory of the checkpoint that the next start goes on from; "": it begins anew.
	Checkpoint string `json:"checkpoint,omitempty"`
}

// Alive tells whether the state is one that only a living process keeps up.
func (s State) Alive() bool {
	switch s.Status {
	case StatusStarting, StatusRunning, StatusPaused, StatusRestarting:
		return true
	}
	return false
}

// Up tells whether the container's workload is there.
func (s State) Up() bool { return s.Status == StatusRunning || s.Status == StatusPaused }

// Names inside a container's directory.
const (
	recordName  = "container.json"
	lockName    = "lock"
	scratchName = "scratch.ext4"
)

// ErrBroken is wrapped by errors about records that cannot be read or trusted.
var ErrBroken = errors.New("record is broken")

// maxRecord bounds what is read of a record, in bytes. Arguments and
// environment of a process are far less.
const maxRecord = 8 << 20

// readRecord reads the record of the container with the ID in its directory.
func readRecord(dir, id string) (*Record, error) {
	path := filepath.Join(dir, recordName)
	info, err := os.Lstat(path)
	var data []byte
	if err == nil {
		if !info.Mode().IsRegular() || info.Size() > maxRecord {
			return nil, fmt.Errorf("%w: %s is not a file of at most %d bytes", ErrBroken, path, maxRecord)
		}
		data, err = os.ReadFile(path) // the container may be removed at any time
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(data, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBroken, path, err)
	}
	return r, nil
}

func parseRecord(data []byte, id string) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Version < 1 || r.Version > recordVersion:
		return nil, fmt.Errorf("format version %d, this hull knows up to %d", r.Version, recordVersion)
	case r.ID != id:
		return nil, fmt.Errorf("it is about container %q", ShortID(r.ID))
	}
	if err := CheckName(r.Name); err != nil {
		return nil, err
	}
	switch r.State.Status {
	case StatusCreated, StatusStarting, StatusRunning, StatusPaused, StatusRestarting, StatusExited:
		return &r, nil
	}
	return nil, fmt.Errorf("unknown status %q", r.State.Status)
}

// write puts the record into the container's directory. Containers that go when
// they end need not survive a crash of the host.
func (r *Record) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the record of container %s: %w", r.Name, err)
	}
	return writeAtomic(filepath.Join(dir, recordName), append(data, '\n'), !r.Config.AutoRemove)
}
