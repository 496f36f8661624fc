package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/google/go-containerregistry/pkg/name"
)

// member is one entry of a tar.
type member struct {
	tar.Header
	content string
}

func file(name, content string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func directory(name string) member {
	return member{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func link(kind byte, name, target string) member {
	return member{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

// with returns the member with its header changed.
func (m member) with(change func(*tar.Header)) member {
	change(&m.Header)
	return m
}

// archive makes a tar of members.
func archive(members ...member) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if m.ModTime.IsZero() {
			m.ModTime = time.Unix(1_700_000_000, 0)
		}
		if err := w.WriteHeader(&m.Header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// helperRootFS writes the tar of a small root filesystem, or of a hostile one:
// rootfs KIND OUT
func helperRootFS(args []string) error {
	if err := usage(args, 2, "rootfs KIND OUT"); err != nil {
		return err
	}
	kinds := map[string][]member{
		"good":     {directory("etc"), file("etc/hello", "hello\n"), link(tar.TypeSymlink, "abs", "/etc/hello")},
		"dotdot":   {file("../evil", "x")},
		"hardlink": {link(tar.TypeLink, "a", "../../etc/passwd")},
		"device": {directory("dev"), member{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/kmsg", Devmajor: 1, Devminor: 11, Mode: 0o666}},
			member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}}},
		"duplicates": {file("f", "first"), file("f", "second"), file("./f", "third")},
		"symlinkdir": {link(tar.TypeSymlink, "out", "/tmp"), file("out/hull-e2e-evil", "x")},
	}
	members, ok := kinds[args[0]]
	if !ok {
		return fmt.Errorf("no kind %q", args[0])
	}
	data, err := archive(members...)
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], data, 0o600)
}

// helperImage writes an image as docker save does: image KIND OUT
func helperImage(args []string) error {
	if err := usage(args, 2, "image KIND OUT"); err != nil {
		return err
	}
	var layers []v1.Layer
	count := 1
	if args[0] == "layers120" {
		count = 120
	}
	for n := range count {
		data, err := archive(directory("d"), file(fmt.Sprintf("d/%d", n), "x"))
		if err != nil {
			return err
		}
		layer, err := layerOf(data)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return err
	}
	config := configOf(image)
	if args[0] == "digest" { // the layer is not what the configuration says
		config.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	tag, err := name.NewTag("e2e/" + args[0] + ":1")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := tarball.Write(tag, image, &out); err != nil {
		return err
	}
	return os.WriteFile(args[1], out.Bytes(), 0o600)
}

func layerOf(data []byte) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
}

func configOf(image v1.Image) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil {
		return nil
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Cmd = []string{"/bin/sh"}
	return config
}

// tree is what layers add up to by docker's rules: paths without a slash in front.
type tree map[string]member

// apply puts a layer on top, entry by entry as docker does.
func (t tree) apply(layer io.Reader) error {
	r := tar.NewReader(layer)
	fresh := make(map[string]bool) // what this layer brought, which its own whiteouts spare
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		at := strings.Trim(path.Clean("/"+h.Name), "/")
		dir, base := path.Split(at)
		dir = strings.Trim(dir, "/")
		if at == "" {
			continue
		}
		if base == ".wh..wh..opq" {
			t.removeBelow(dir, fresh)
			continue
		}
		if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			t.remove(strings.Trim(dir+"/"+hidden, "/"))
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		m := member{*h, string(content)}
		if h.Typeflag == tar.TypeLink {
			target := t[strings.Trim(path.Clean("/"+h.Linkname), "/")]
			m = target
		}
		if old, ok := t[at]; ok && !(old.Typeflag == tar.TypeDir && m.Typeflag == tar.TypeDir) {
			t.remove(at)
		}
		t[at] = m
		fresh[at] = true
	}
}

func (t tree) remove(at string) {
	delete(t, at)
	t.removeBelow(at, nil)
}

func (t tree) removeBelow(dir string, spare map[string]bool) {
	for p := range t {
		if strings.HasPrefix(p, dir+"/") && !spare[p] {
			delete(t, p)
		}
	}
}

// write lists the tree, one line for each path: type, mode, owner, size and CRC of a
// file, target of a link. The script listing.py makes the same list in a container.
func (t tree) write(w io.Writer) error {
	var lines []string
	for p, m := range t {
		if hidden(p) {
			continue
		}
		line := fmt.Sprintf("/%s %04o %d:%d ", p, m.Mode&0o7777, m.Uid, m.Gid)
		switch m.Typeflag {
		case tar.TypeDir:
			line += "dir"
		case tar.TypeSymlink:
			line += "link " + m.Linkname
		case tar.TypeChar, tar.TypeBlock:
			line += fmt.Sprintf("device %d:%d", m.Devmajor, m.Devminor)
		case tar.TypeFifo:
			line += "fifo"
		default:
			line += fmt.Sprintf("file %d %08x", len(m.content), crc32.ChecksumIEEE([]byte(m.content)))
		}
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b string) int { return cmp.Compare(a, b) })
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// hidden tells which paths a container has something mounted on.
func hidden(p string) bool {
	for _, mounted := range []string{"dev", "proc", "sys"} {
		if p == mounted || strings.HasPrefix(p, mounted+"/") {
			return true
		}
	}
	return slices.Contains([]string{"etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"}, p)
}

// helperListing lists what is in the tar of a root filesystem: listing TAR OUT
func helperListing(args []string) error {
	if err := usage(args, 2, "listing TAR OUT"); err != nil {
		return err
	}
	in, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	t := make(tree)
	if err := t.apply(in); err != nil {
		return err
	}
	return writeListing(t, args[1])
}

func writeListing(t tree, path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	return t.write(out)
}

// helperPack makes a tar with one file in it: pack FILE OUT
func helperPack(args []string) error {
	if err := usage(args, 2, "pack FILE OUT"); err != nil {
		return err
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	data, err := archive(file(path.Base(args[0]), string(content)))
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], data, 0o600)
}
