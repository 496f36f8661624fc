package inner

import (
	"fmt"
	"os"
)

// group is the control group of one command and all that it starts.
type group struct{ dir *os.File }

func newGroup() (*group, error) {
	path, err := os.MkdirTemp("/sys/fs/cgroup", "lab-")
	if err != nil {
		return nil, fmt.Errorf("making a control group: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("making a control group: %w", err)
	}
	return &group{dir}, nil
}

// kill ends every process of the group.
func (g *group) kill() {
	_ = os.WriteFile(g.dir.Name()+"/cgroup.kill", []byte("1"), 0)
}

// remove forgets the group. Processes that the command left behind go on in it.
func (g *group) remove() {
	g.dir.Close()
	_ = os.Remove(g.dir.Name())
}
