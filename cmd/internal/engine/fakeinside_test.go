package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hullvm/hull/guestinit/archive"
	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/vmm"
)

// features are those of the agent that the fake VM plays: none of an old one.
func (f *fake) features() []string {
	if f.behave == "old" {
		return nil
	}
	return []string{proto.FeatureExec, proto.FeatureFiles, proto.FeatureProcesses}
}

// files is the directory that plays the container's root filesystem: "files=…" on the kernel command line.
func (f *fake) files() string {
	for word := range strings.FieldsSeq(f.config.CommandLine) {
		if dir, ok := strings.CutPrefix(word, "files="); ok {
			return dir
		}
	}
	return "/nonexistent"
}

// inside answers what is asked of the inside of a container.
func (f *fake) inside(m proto.Message, answer func(proto.Message)) {
	out := proto.Message{Type: proto.TypeOK, ID: m.ID}
	var err error
	switch m.Type {
	case proto.TypeExec:
		f.start(proto.Message{ID: m.ID, Start: &proto.Start{Process: m.Exec.Process, Spec: &specs.Spec{Process: m.Exec.Spec}, Streams: m.Exec.Streams}}, answer)
		return
	case proto.TypeShutdown:
		answer(out)
		f.event(vmm.Event{Event: "exit", Reason: vmm.ReasonPowerOff})
		syscall.Exit(0)
	case proto.TypeMount:
	case proto.TypeStat:
		out.Type = proto.TypeFile
		out.File, err = f.stat(m.Stat.Path)
	case proto.TypePack:
		err = f.transfer(m.Pack.Transfer, func(root *archive.Root, conn net.Conn) error {
			w := archive.NewWriter(conn)
			return errors.Join(w.Pack(root, m.Pack.Path, m.Pack.Name), w.Close())
		})
	case proto.TypeUnpack:
		err = f.transfer(m.Unpack.Transfer, func(root *archive.Root, conn net.Conn) error {
			return archive.Unpack(context.Background(), conn, root, m.Unpack.Path, archive.UnpackOptions{Trusted: true, KeepOwners: m.Unpack.KeepOwners})
		})
	case proto.TypeChanges:
		err = f.transfer(m.Changes.Transfer, func(_ *archive.Root, conn net.Conn) error {
			if f.behave == "garbage" {
				_, err := io.WriteString(conn, "\x00\x00\x00\x02{}")
				return err
			}
			return errors.Join(proto.WriteFrame(conn, proto.Change{Kind: "A", Path: "/new"}), proto.WriteFrame(conn, proto.Change{Kind: "D", Path: "/old"}))
		})
	case proto.TypeProcesses:
		out.Type, out.Processes = m.Type, &proto.Processes{List: []proto.ProcessInfo{{PID: 7, Comm: "x"}}, Ticks: 100}
	case proto.TypeUsage:
		out.Type, out.Usage = m.Type, &proto.Usage{CPUs: 1, Memory: 5}
	default:
		err = &proto.Error{Code: proto.CodeUnsupported, Message: "unknown"}
	}
	if err != nil {
		refused := &proto.Error{Code: proto.CodeIO, Message: err.Error()}
		if archive.IsNotExist(err) {
			refused.Code = proto.CodeNotFound
		}
		out = proto.Message{Type: proto.TypeError, ID: m.ID, Error: refused}
	}
	answer(out)
}

func (f *fake) stat(path string) (*proto.File, error) {
	root, err := archive.Open(f.files())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(path)
	if err != nil {
		return nil, err
	}
	return &proto.File{Name: info.Name, Size: info.Size, Mode: uint32(info.Mode), ModTime: info.ModTime, Target: info.Target}, nil
}

// transfer waits for the connection of a transfer, and ends it when do has used it.
func (f *fake) transfer(name string, do func(*archive.Root, net.Conn) error) error {
	f.mu.Lock()
	for f.streams[name+"/"+proto.StreamData] == nil {
		f.came.Wait()
	}
	conn := f.streams[name+"/"+proto.StreamData]
	f.mu.Unlock()
	defer conn.Close()
	root, err := archive.Open(f.files())
	if err != nil {
		return err
	}
	defer root.Close()
	return do(root, conn)
}
