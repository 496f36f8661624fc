package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/guestinit/proto"
	"github.com/hullvm/hull/images"
	"github.com/hullvm/hull/images/bundle"
	"github.com/hullvm/hull/vmm"
)

// Shape is what VMs have in common that can start from the same template: a VM that was saved when its agent was ready and
// knew of no container yet (docs/decisions/0022).
type Shape struct {
	Files       string `json:"files"` // the unpacked files of this build: kernel, init, VM process
	Host        string `json:"host"`  // this host's processor, see hostCPU
	CPUs        int    `json:"cpus"`
	Memory      uint64 `json:"memory"` // bytes
	CommandLine string `json:"command_line"`
	Scratch     bool   `json:"scratch"` // there is a second disk for what the container writes
	// Cards has the MTU of each network card, all of which have a socket, and Shares the tag of each shared directory.
	Cards  []int    `json:"cards,omitempty"`
	Shares []string `json:"shares,omitempty"`
}

// templatesDir is the directory of all templates in the cache, and templateLock what the one who makes one holds.
const (
	templatesDir = "templates"
	templateLock = ".lock"
)

// Templates are thrown away that nobody has used for as long, and the ones used longest ago when all of them take more of
// the disk than that.
const (
	templateAge  = 7 * 24 * time.Hour
	templateRoom = 4 << 30
)

// templateMAC is the address that a template was booted with of its network card i.
func templateMAC(i int) MAC { return MAC{0x02, 0x68, 0x75, 0x6c, byte(i >> 8), byte(i)} }

// shapeOf tells which templates a VM could start from; ok is false when it must boot.
func shapeOf(files *bundle.Files, config *vmm.Config, c *Config) (_ Shape, ok bool) {
	if c.Kernel != "" || c.Initrd != "" {
		return Shape{}, false
	}
	host, err := hostCPU()
	if err != nil {
		return Shape{}, false
	}
	s := Shape{
		Files: files.Dir, Host: host, CPUs: config.CPUs, Memory: config.Memory, CommandLine: config.CommandLine,
		Scratch: !c.TmpfsRoot,
	}
	disks := 1 // with the layers
	if s.Scratch {
		disks++
	}
	if len(config.Disks) != disks { // others have a size and a contents that a template cannot stand in for
		return Shape{}, false
	}
	for i := range config.NICs {
		if config.NICs[i].Socket == nil { // a tap interface decides what its card can do
			return Shape{}, false
		}
		s.Cards = append(s.Cards, config.NICs[i].MTU)
	}
	for i := range config.Shares {
		s.Shares = append(s.Shares, config.Shares[i].Tag)
	}
	return s, true
}

// hostCPU tells this host's processor from others: its model, microcode and features.
func hostCPU() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, 16<<10) // more than the kernel says of one processor
	n, err := f.Read(buf)
	if err != nil {
		return "", err
	}
	first, _, _ := bytes.Cut(buf[:n], []byte("\n\n"))
	h := sha256.New()
	for line := range bytes.Lines(first) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch strings.TrimSpace(string(name)) {
		case "vendor_id", "cpu family", "model", "stepping", "microcode", "flags":
			h.Write(line)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// key names the directory of the template.
func (s Shape) key() string {
	b, _ := json.Marshal(s) // cannot fail: strings and numbers
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func (e *Engine) templatesDir() string       { return filepath.Join(e.store.dirs.Cache, templatesDir) }
func (e *Engine) templateDir(s Shape) string { return filepath.Join(e.templatesDir(), s.key()) }

// openTemplate adds the files of a shape's template to those of a VM process. It is nil when there is none.
func (e *Engine) openTemplate(s Shape, table *fileTable) *vmm.Snapshot {
	dir := e.templateDir(s)
	state, err := table.open(filepath.Join(dir, vmm.SnapshotState), os.O_RDONLY)
	if err != nil {
		return nil
	}
	memory, err := table.open(filepath.Join(dir, vmm.SnapshotMemory), os.O_RDONLY)
	if err != nil {
		return nil // it is just being thrown away; the one file is closed with the table
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // when it was last used, for pruning
	return &vmm.Snapshot{State: state, Memory: memory}
}

// dropTemplate throws a template away.
func (e *Engine) dropTemplate(s Shape) { _ = os.RemoveAll(e.templateDir(s)) }

// orderTemplate has a process of its own make the template of a shape, unless somebody does so already. Without it the
// next container boots: whatever fails here is no error of this one's.
func (e *Engine) orderTemplate(s Shape) {
	if e.templates == nil {
		return
	}
	if _, err := os.Stat(e.templateDir(s)); err == nil {
		return
	}
	order, err := json.Marshal(s)
	if err != nil {
		return
	}
	input, err := memoryFile("hull-template", order)
	if err != nil {
		return
	}
	defer input.Close()
	cmd := exec.Command(e.templates[0], e.templates[1:]...)
	cmd.Stdin = input
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cmd.Start() != nil {
		return
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, templateNice)
	go cmd.Wait()
}

// templateNice is how far a template stands back behind what users wait for.
const templateNice = 15

// ErrTemplateMaking says that another process makes a template now.
var ErrTemplateMaking = errors.New("another template is being made")

// MakeTemplate boots a VM of the shape, saves it when its agent is ready, and ends it. One template is made at a time.
func (e *Engine) MakeTemplate(ctx context.Context, s Shape) error {
	files, err := e.Files()
	if err != nil {
		return err
	}
	if s.Files != files.Dir {
		return fmt.Errorf("a template for another hull: %s", s.Files)
	}
	if err := makePrivate(e.templatesDir()); err != nil {
		return err
	}
	lock, err := openLock(filepath.Join(e.templatesDir(), templateLock), os.O_CREATE)
	if errors.Is(err, errLocked) {
		return ErrTemplateMaking
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(e.templateDir(s)); err == nil {
		return nil
	}
	if err := errors.Join(e.removeUnfinished(), e.pruneTemplates(templateAge, templateRoom)); err != nil {
		return err
	}
	return e.bootTemplate(ctx, files, s)
}

// templatePatience bounds the making of a template.
const templatePatience = 2 * time.Minute

func (e *Engine) bootTemplate(ctx context.Context, files *bundle.Files, s Shape) error {
	ctx, cancel := context.WithTimeout(ctx, templatePatience)
	defer cancel()
	dir, lock, err := e.store.makeBootDir(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, socketName)
	listener, err := listenHost(socket, proto.PortControl)
	if err != nil {
		return err
	}
	defer listener.Close()
	table := &fileTable{}
	table.lend(lock.file)
	config, cables, err := s.config(files, dir, socket, table)
	defer unplug(cables)
	if err != nil {
		table.close()
		return err
	}
	vm, err := startVM(vmSpec{program: files.VMM, name: "template", config: config, files: table})
	if err != nil {
		return err
	}
	defer vm.kill()
	stop := context.AfterFunc(ctx, vm.kill)
	defer stop()
	go func() {
		<-vm.done
		cancel()
	}()
	client, err := acceptAgent(ctx, listener)
	if err != nil {
		select {
		case <-vm.done:
			return vm.result().err()
		default:
			return err
		}
	}
	defer client.Close()
	if hello := client.Hello(); !hello.Has(proto.FeatureSnapshots) {
		return errors.New("the guest's agent is too old to be saved")
	}
	if _, err := client.Freeze(ctx, proto.Freeze{}); err != nil {
		return err
	}
	if _, err := vm.ask(ctx, vmm.Command{Command: vmm.CommandPause}); err != nil {
		return err
	}
	return vm.snapshot(ctx, e.templateDir(s))
}

// config describes a VM that is booted to be a template: with disks, cards and shares in the places of those that a container
// brings. The cables lead nowhere, and are the caller's to close, on an error too.
func (s Shape) config(files *bundle.Files, dir, socket string, table *fileTable) (_ vmm.Config, cables []*os.File, err error) {
	config := vmm.Config{
		ID: "template", CPUs: s.CPUs, Memory: s.Memory, CommandLine: s.CommandLine,
		Vsock: &vmm.Vsock{CID: guestCID, Path: socket}, RNG: true, Balloon: true, OrphanRemove: []string{dir},
	}
	if err := guestKernel(&config, "", "", files, table); err != nil {
		return vmm.Config{}, nil, err
	}
	layers, err := layersDisk([]images.Disk{{Path: files.Uroot}}, table)
	if err != nil {
		return vmm.Config{}, nil, err
	}
	config.Disks = append(config.Disks, layers)
	if s.Scratch {
		f, err := openScratch(dir, files.Scratch, false)
		if err != nil {
			return vmm.Config{}, nil, err
		}
		file := table.add(f)
		config.Disks = append(config.Disks, vmm.Disk{ID: scratchID, File: &file})
	}
	for i, mtu := range s.Cards {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return vmm.Config{}, cables, fmt.Errorf("a cable for network card %d: %w", i, err)
		}
		cables = append(cables, os.NewFile(uintptr(fds[0]), "cable"))
		end := table.add(os.NewFile(uintptr(fds[1]), "network"))
		config.NICs = append(config.NICs, vmm.NIC{MAC: templateMAC(i), MTU: mtu, Socket: &end})
	}
	if len(s.Shares) == 0 {
		return config, cables, config.Validate()
	}
	empty := filepath.Join(dir, "shared") // the guest mounts none of them: it knows of no container
	if err := os.Mkdir(empty, 0o700); err != nil {
		return vmm.Config{}, cables, err
	}
	for _, tag := range s.Shares {
		file, err := table.open(empty, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return vmm.Config{}, cables, err
		}
		config.Shares = append(config.Shares, vmm.Share{Tag: tag, File: file})
	}
	return config, cables, config.Validate()
}

func unplug(cables []*os.File) {
	for _, f := range cables {
		f.Close()
	}
}

// pruneTemplates throws away what has not been used for as long as age, and what has been used longest ago until the rest
// takes no more than room bytes.
func (e *Engine) pruneTemplates(age time.Duration, room int64) error {
	type template struct {
		path string
		used time.Time
		size int64
	}
	var all []template
	entries, err := os.ReadDir(e.templatesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || len(entry.Name()) != len(Shape{}.key()) {
			continue // a lock, or one that is being made
		}
		path := filepath.Join(e.templatesDir(), entry.Name())
		all = append(all, template{path, info.ModTime(), diskUse(path)})
	}
	slices.SortFunc(all, func(a, b template) int { return b.used.Compare(a.used) }) // the latest first
	total := int64(0)
	for _, t := range all {
		if total += t.size; total <= room && time.Since(t.used) <= age {
			continue
		}
		if err := os.RemoveAll(t.path); err != nil {
			return fmt.Errorf("throwing an old template away: %w", err)
		}
	}
	return nil
}

// removeUnfinished removes what those have left who were killed while they made a template. The caller holds the lock of all
// who make one.
func (e *Engine) removeUnfinished() error {
	entries, err := os.ReadDir(e.templatesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if key, _, unfinished := strings.Cut(entry.Name(), "."); unfinished && len(key) == len(Shape{}.key()) {
			if err := os.RemoveAll(filepath.Join(e.templatesDir(), entry.Name())); err != nil {
				return fmt.Errorf("removing an unfinished template: %w", err)
			}
		}
	}
	return nil
}

// diskUse is how much of the disk the files in a directory take, in bytes.
func diskUse(dir string) (n int64) {
	entries, _ := os.ReadDir(dir) // gone: nothing
	for _, entry := range entries {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, entry.Name()), &st) == nil {
			n += st.Blocks * 512 // stat(2): whatever the file system's blocks are
		}
	}
	return n
}

// PruneTemplates throws all templates away and returns how many bytes that has freed.
func (e *Engine) PruneTemplates() (int64, error) {
	lock, err := openLock(filepath.Join(e.templatesDir(), templateLock), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // there never was one
	}
	n := int64(0)
	entries, _ := os.ReadDir(e.templatesDir())
	for _, entry := range entries {
		n += diskUse(filepath.Join(e.templatesDir(), entry.Name()))
	}
	if err == nil { // else one is being made, and goes with the next
		defer lock.Close()
		err = e.removeUnfinished()
	} else if errors.Is(err, errLocked) {
		err = nil
	}
	return n, errors.Join(err, e.pruneTemplates(0, 0))
}
