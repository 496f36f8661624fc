package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/mkuimage/uimage/initramfs"
	"github.com/u-root/uio/llog"

	"github.com/hullvm/hull/images/layerdisk"
)

const (
	urootModule = "github.com/u-root/u-root"
	ownCommands = "github.com/hullvm/hull/images/mkguest/cmds/"
)

// uroot builds the built-in image. Its commands are u-root's, as far as go.mod
// pins them as tools, and those under cmds, which u-root lacks.
func (b *build) uroot() error {
	packages, version, err := urootCommands()
	if err != nil {
		return err
	}
	b.say("compiling %d commands", len(packages))
	tree, err := b.busybox(packages)
	if err != nil {
		return err
	}
	layer, err := writeLayer(append(systemFiles(version), tree...))
	if err != nil {
		return err
	}
	b.say("writing %s", b.path("uroot.ext4"))
	if err := writeExt4(b.path("uroot.ext4"), layer); err != nil {
		return err
	}
	return writeConfig(b.path("uroot.json"), layer)
}

// urootCommands lists the import paths of the commands, and u-root's version.
func urootCommands() (packages []string, version string, err error) {
	tools, err := goList("list", "-f", "{{.ImportPath}}", "tool")
	if err != nil {
		return nil, "", err
	}
	for _, pkg := range strings.Fields(tools) {
		if strings.HasPrefix(pkg, urootModule+"/cmds/") {
			packages = append(packages, pkg)
		}
	}
	own, err := goList("list", "-f", "{{.ImportPath}}", ownCommands+"...")
	if err != nil {
		return nil, "", err
	}
	packages = append(packages, strings.Fields(own)...)
	slices.Sort(packages)
	version, err = goList("list", "-m", "-f", "{{.Version}}", urootModule)
	return packages, version, err
}

// busybox compiles the commands and returns the files of /bin.
func (b *build) busybox(packages []string) ([]file, error) {
	temp := filepath.Join(b.temp, "uroot")
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return nil, err
	}
	archive := cpio.InMemArchive()
	err := uimage.Create(llog.Default(),
		uimage.WithReplaceEnv(b.environ()),
		uimage.WithTempDir(temp),
		uimage.WithCommands(nil, busybox{}, packages...),
		uimage.WithSkipLDD(),
		uimage.WithOutput(&initramfs.Archive{Archive: archive}),
	)
	if err != nil {
		return nil, err
	}
	var files []file
	reader := archive.Reader()
	for {
		r, err := reader.ReadRecord()
		if err == io.EOF || (err == nil && r.Name == cpio.Trailer) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		kind := r.Mode & cpio.S_IFMT
		if kind != cpio.S_IFREG && kind != cpio.S_IFLNK {
			continue // systemFiles has the directories
		}
		content := make([]byte, r.FileSize)
		if _, err := r.ReadAt(content, 0); err != nil && err != io.EOF {
			return nil, err
		}
		if kind == cpio.S_IFREG {
			files = append(files, regular(r.Name, string(content), 0o755))
		} else {
			files = append(files, symlink(r.Name, string(content)))
		}
	}
}

// file is a file of the image.
type file struct {
	name    string
	mode    int64
	kind    byte   // tar's
	content string // or a link's target
}

func dir(name string, mode int64) file        { return file{name + "/", mode, tar.TypeDir, ""} }
func symlink(name, target string) file        { return file{name, 0o777, tar.TypeSymlink, target} }
func regular(name, text string, m int64) file { return file{name, m, tar.TypeReg, text} }

// greeting is what "make run" shows: a script that tells where it runs.
const greeting = `echo "Hello from a container in a microVM of hull."
read -r _ memory _ < /proc/meminfo
echo "  kernel:     $(uname -s) $(uname -r), all its own"
echo "  hostname:   $(hostname)"
echo "  processors: $(grep -c ^processor /proc/cpuinfo)"
echo "  memory:     $((memory / 1024)) MiB"
`

// systemFiles are what programs expect of a root filesystem.
func systemFiles(version string) []file {
	const passwd = "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/:/bin/false\n" +
		"nobody:x:65534:65534:nobody:/:/bin/false\n"
	const group = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n"
	release := strings.ReplaceAll(
		"NAME=\"u-root\"\nID=uroot\nVERSION_ID=\"@\"\nPRETTY_NAME=\"u-root @ (hull)\"\nHOME_URL=\"https://u-root.org/\"\n",
		"@", strings.TrimPrefix(version, "v"))
	return []file{
		dir("bin", 0o755),
		dir("dev", 0o755),
		dir("etc", 0o755),
		regular("etc/greeting", greeting, 0o644),
		regular("etc/group", group, 0o644),
		regular("etc/hostname", "uroot\n", 0o644),
		regular("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", 0o644),
		regular("etc/nsswitch.conf", "hosts: files dns\n", 0o644),
		regular("etc/os-release", release, 0o644),
		regular("etc/passwd", passwd, 0o644),
		regular("etc/resolv.conf", "", 0o644),
		regular("etc/shells", "/bin/sh\n", 0o644),
		dir("home", 0o755),
		dir("mnt", 0o755),
		dir("proc", 0o555),
		dir("root", 0o700),
		dir("run", 0o755),
		symlink("sbin", "bin"),
		dir("sys", 0o555),
		dir("tmp", 0o1777),
		dir("usr", 0o755),
		symlink("usr/bin", "../bin"),
		symlink("usr/sbin", "../bin"),
		dir("var", 0o755),
		dir("var/log", 0o755),
		symlink("var/run", "../run"),
		dir("var/tmp", 0o1777),
	}
}

// epoch is the time of all files.
func epoch() time.Time { return time.Unix(1700000000, 0).UTC() }

// writeLayer makes an OCI layer.
func writeLayer(files []file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Typeflag: f.kind, ModTime: epoch(), Format: tar.FormatPAX}
		switch f.kind {
		case tar.TypeReg:
			h.Size = int64(len(f.content))
		case tar.TypeSymlink:
			h.Linkname = f.content
		}
		err := w.WriteHeader(h)
		if err == nil && f.kind == tar.TypeReg {
			_, err = io.WriteString(w, f.content)
		}
		if err != nil {
			return nil, fmt.Errorf("adding %s to the layer: %w", path.Clean(f.name), err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	return buf.Bytes(), nil
}

// writeExt4 makes a disk of the layer.
func writeExt4(path string, layer []byte) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	err = layerdisk.Build(context.Background(), bytes.NewReader(layer), f.File, sha256.Sum256(layer), layerdisk.Limits{}.WithDefaults())
	if err != nil {
		return fmt.Errorf("making a disk of the layer: %w", err)
	}
	return f.CloseAtomicallyReplace()
}

// writeConfig writes the OCI image configuration.
func writeConfig(path string, layer []byte) error {
	created := epoch()
	image := v1.Image{
		Created:  &created,
		Author:   "hull",
		Platform: v1.Platform{Architecture: "amd64", OS: "linux"},
		Config: v1.ImageConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd:        []string{"/bin/sh"},
			WorkingDir: "/",
		},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
		History: []v1.History{{Created: &created, CreatedBy: "mkguest", Comment: "image-spec " + specs.Version}},
	}
	raw, err := json.MarshalIndent(image, "", "\t")
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, append(raw, '\n'), 0o644)
}
