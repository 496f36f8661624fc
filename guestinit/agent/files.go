package agent

import (
	"bufio"
	"context"
	"fmt"
	"slices"

	"github.com/hullvm/hull/guestinit/archive"
	"github.com/hullvm/hull/guestinit/proto"
)

// mount mounts the root filesystem of a container that is to be looked at, and not to run.
func (a *Agent) mount(c *container, m *proto.Mount) error {
	if m.Time != 0 && a.opts.SetClock != nil {
		if err := a.opts.SetClock(m.Time); err != nil {
			a.opts.Log(fmt.Sprintf("setting the clock: %v", err))
		}
	}
	a.opts.Prepare()
	root, err := a.opts.Mount(m.Root, a.opts.Dir, a.opts.Dev)
	if err != nil {
		return fmt.Errorf("mounting the root filesystem: %w", err)
	}
	a.mu.Lock()
	c.root, c.volatile = root, m.Root.Volatile
	a.mu.Unlock()
	var sources []string
	for i := range m.Shares {
		source, err := a.mountShare(c, i, &m.Shares[i])
		if err != nil {
			return err
		}
		sources = append(sources, source)
	}
	shares := slices.Clone(m.Shares)
	for i := range m.Volumes {
		source, err := a.mountVolume(c, i, &m.Volumes[i])
		if err != nil {
			return err
		}
		shares = append(shares, proto.Share{Destination: m.Volumes[i].Destination, ReadOnly: m.Volumes[i].ReadOnly})
		sources = append(sources, source)
	}
	var v *view
	inThread(func() { v, err = makeView(root.Dir(), shares, sources) })
	if err != nil {
		return err
	}
	a.mu.Lock()
	c.view = v
	a.mu.Unlock()
	return nil
}

// mounted returns the container, which has a root filesystem, and its main process if that runs.
func (a *Agent) mounted() (*container, *process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.main
	if c == nil || c.process == nil && c.view == nil {
		return nil, nil, &proto.Error{Code: proto.CodeNoProcess, Message: "the container has not been started"}
	}
	if c.process == nil {
		return c, nil, nil
	}
	select {
	case <-c.process.reaped:
		return nil, nil, &proto.Error{Code: proto.CodeNoProcess, Message: "the container has ended"}
	default:
	}
	return c, c.process, nil
}

// stat tells of a file.
func (a *Agent) stat(s *proto.Stat) (*proto.File, error) {
	root, err := a.view()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(s.Path)
	if err != nil {
		return nil, classify(err)
	}
	return &proto.File{Name: info.Name, Size: info.Size, Mode: uint32(info.Mode), ModTime: info.ModTime, Target: info.Target}, nil
}

// classify tells the host of what is not there by a code of its own.
func classify(err error) error {
	if archive.IsNotExist(err) {
		return &proto.Error{Code: proto.CodeNotFound, Message: err.Error()}
	}
	return err
}

// transfer claims the connection of a transfer, has do use it, and ends it.
func (a *Agent) transfer(name string, do func(Conn) error) error {
	if name == "" {
		return &proto.Error{Code: proto.CodeInvalid, Message: "the transfer has no name"}
	}
	conns, err := a.streams.claim(name, []string{proto.StreamData})
	if err != nil {
		return err
	}
	conn := conns[proto.StreamData]
	if err := do(conn); err != nil {
		conn.Close()
		return classify(err)
	}
	_ = conn.CloseWrite()
	go linger(conn)
	return nil
}

// pack sends files.
func (a *Agent) pack(p *proto.Pack) error {
	return a.transfer(p.Transfer, func(conn Conn) error {
		resume, err := a.pause(p.Pause)
		if err != nil {
			return err
		}
		defer resume()
		out := bufio.NewWriterSize(onlyWriter{conn}, copyBuffer)
		w := archive.NewWriter(out)
		if err := a.packTo(w, p); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		return out.Flush()
	})
}

func (a *Agent) packTo(w *archive.Writer, p *proto.Pack) error {
	c, _, err := a.mounted()
	if err != nil {
		return err
	}
	switch p.Source {
	case proto.SourcePath:
		root, err := a.view()
		if err != nil {
			return err
		}
		defer root.Close()
		return w.Pack(root, p.Path, p.Name)
	case proto.SourceRoot:
		return packDir(w, c.root.Dir())
	case proto.SourceLayer:
		layers := c.root.Layers()
		if p.Layer < 1 || p.Layer > len(layers) {
			return &proto.Error{Code: proto.CodeInvalid, Message: fmt.Sprintf("layer %d: there are %d", p.Layer, len(layers))}
		}
		return packDir(w, layers[p.Layer-1])
	case proto.SourceChanges:
		return a.eachChange(c, &layerWriter{w})
	}
	return &proto.Error{Code: proto.CodeUnsupported, Message: fmt.Sprintf("archive of %q: there is no such thing", p.Source)}
}

// packDir writes all that is in a directory of the agent's.
func packDir(w *archive.Writer, dir string) error {
	root, err := archive.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return w.Pack(root, "/", "")
}

// pause stops the container's processes, if it is to and if there are any, until resume is called.
func (a *Agent) pause(wanted bool) (resume func(), err error) {
	if !wanted {
		return func() {}, nil
	}
	c, p, err := a.mounted()
	if err != nil {
		return nil, err
	}
	if p == nil {
		return func() {}, nil
	}
	if c.group == nil {
		return nil, &proto.Error{Code: proto.CodeUnsupported, Message: "pausing the container: this kernel has no cgroups"}
	}
	if err := c.group.Freeze(freezeTimeout); err != nil {
		return nil, err
	}
	return func() {
		if err := c.group.Thaw(); err != nil {
			a.opts.Log(err.Error())
		}
	}, nil
}

// unpack takes files.
func (a *Agent) unpack(u *proto.Unpack) error {
	return a.transfer(u.Transfer, func(conn Conn) error {
		c, p, err := a.mounted()
		if err != nil {
			return err
		}
		root, err := a.view()
		if err != nil {
			return err
		}
		defer root.Close()
		// The end of the connection ends it: there is no other patience than the host's.
		in := bufio.NewReaderSize(onlyReader{conn}, copyBuffer)
		if err := archive.Unpack(context.Background(), in, root, u.Path, archive.UnpackOptions{KeepOwners: u.KeepOwners, Trusted: true}); err != nil {
			return err
		}
		if p == nil && !c.volatile {
			return c.root.Sync() // nobody else would tell of a disk that is full
		}
		return nil
	})
}
