package guestkernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxModule     = 64 << 20 // bytes, uncompressed
	maxIndex      = 32 << 20 // bytes of modules.dep and the like
	maxIndexLine  = 1 << 20  // bytes
	maxModuleDeps = 1024     // modules that the wanted ones may need in all
)

// Wanted are the modules that a guest may need. A kernel has some of them built in.
func Wanted() []string {
	return []string{
		"virtio_mmio", "virtio_blk", "virtio_rng", "virtio_console", "virtio_balloon", "virtio_net",
		"vmw_vsock_virtio_transport", "virtiofs", "fuse",
		"overlay", "ext4", "erofs", "af_packet", "pvpanic_mmio",
	}
}

// Module is a module that a guest is to load.
type Module struct {
	Name string // with underscores, as of lsmod
	Path string // of its file, on the host
}

// Set is what a kernel has of the wanted modules.
type Set struct {
	Load    []Module // with what they need, in the order in which they can be loaded
	Builtin []string // no module, but in the kernel
	Missing []string // neither
}

// ModulesDir is where a host keeps the modules of a kernel.
func ModulesDir(release string) string { return filepath.Join("/lib/modules", release) }

// Modules finds the wanted modules, and those that they need, in a tree such as /lib/modules/RELEASE.
func Modules(dir string, wanted []string) (*Set, error) {
	s, err := modules(dir, wanted)
	if err != nil {
		return nil, fmt.Errorf("finding modules in %s: %w", dir, err)
	}
	return s, nil
}

func modules(dir string, wanted []string) (*Set, error) {
	deps, err := readIndex(filepath.Join(dir, "modules.dep"), parseDep)
	if err != nil {
		return nil, err
	}
	builtin, err := readIndex(filepath.Join(dir, "modules.builtin"), parseBuiltin)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	soft, err := readIndex(filepath.Join(dir, "modules.softdep"), parseSoftdep)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r := &resolver{deps: deps, soft: soft, state: make(map[string]int)}
	s := &Set{}
	for _, name := range wanted {
		name = moduleName(name)
		switch {
		case deps[name] != nil:
			if err := r.add(name); err != nil {
				return nil, err
			}
		case builtin[name] != nil:
			s.Builtin = append(s.Builtin, name)
		default:
			s.Missing = append(s.Missing, name)
		}
	}
	for _, name := range r.order {
		s.Load = append(s.Load, Module{name, filepath.Join(dir, filepath.FromSlash(deps[name][0]))})
	}
	return s, nil
}

// resolver puts modules into an order in which each comes after those it needs.
type resolver struct {
	deps, soft map[string][]string
	state      map[string]int
	order      []string
}

const (
	visiting = 1
	done     = 2
)

func (r *resolver) add(name string) error {
	switch r.state[name] {
	case visiting:
		return fmt.Errorf("%w: module %s needs itself", ErrCorrupt, name)
	case done:
		return nil
	}
	r.state[name] = visiting
	if len(r.state) > maxModuleDeps {
		return fmt.Errorf("%w: more than %d modules are needed", ErrCorrupt, maxModuleDeps)
	}
	for _, file := range r.deps[name][1:] {
		needed := moduleName(file)
		if r.deps[needed] == nil {
			return fmt.Errorf("%w: module %s needs %s, which modules.dep does not have", ErrCorrupt, name, needed)
		}
		if err := r.add(needed); err != nil {
			return err
		}
	}
	for _, needed := range r.soft[name] {
		// Soft: good to have before, in no case an error.
		if r.deps[needed] != nil && r.state[needed] == 0 {
			if err := r.add(needed); err != nil {
				return err
			}
		}
	}
	r.state[name] = done
	r.order = append(r.order, name)
	return nil
}

// moduleName is the name of a module with the given file or alternative spelling.
func moduleName(file string) string {
	name := path.Base(file)
	if i := strings.Index(name, ".ko"); i >= 0 {
		name = name[:i]
	}
	return strings.ReplaceAll(name, "-", "_")
}

// readIndex reads one of the files that depmod makes: module name to strings.
func readIndex(file string, parse func(line string) (string, []string, error)) (map[string][]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseIndex(f, parse)
}

func parseIndex(r io.Reader, parse func(line string) (string, []string, error)) (map[string][]string, error) {
	index := make(map[string][]string)
	lines := bufio.NewScanner(io.LimitReader(r, maxIndex))
	lines.Buffer(nil, maxIndexLine)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, values, err := parse(line)
		if err != nil {
			return nil, err
		}
		if name != "" && index[name] == nil {
			index[name] = values
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return index, nil
}

// parseDep parses a line of modules.dep, "FILE: FILE FILE…". The values are the
// module's own file and those of the modules it needs.
func parseDep(line string) (string, []string, error) {
	file, rest, ok := strings.Cut(line, ":")
	if !ok {
		return "", nil, fmt.Errorf("%w: modules.dep: no module: %q", ErrCorrupt, line)
	}
	files := append([]string{file}, strings.Fields(rest)...)
	for _, f := range files {
		if !filepath.IsLocal(f) || moduleName(f) == "" {
			return "", nil, fmt.Errorf("%w: modules.dep: %q is not a path within the tree", ErrCorrupt, f)
		}
	}
	return moduleName(file), files, nil
}

func parseBuiltin(line string) (string, []string, error) {
	return moduleName(line), []string{line}, nil
}

// parseSoftdep parses "softdep NAME pre: NAME… post: NAME…"; only those before count.
func parseSoftdep(line string) (string, []string, error) {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "softdep" {
		return "", nil, nil
	}
	var before []string
	pre := false
	for _, w := range words[2:] {
		if strings.HasSuffix(w, ":") {
			pre = w == "pre:"
		} else if pre && !slices.Contains(before, moduleName(w)) {
			before = append(before, moduleName(w))
		}
	}
	return moduleName(words[1]), before, nil
}

// Read reads a module's file and decompresses it.
func (m *Module) Read() ([]byte, error) {
	raw, err := m.read()
	if err != nil {
		return nil, fmt.Errorf("reading the module %s (%s): %w", m.Name, m.Path, err)
	}
	return raw, nil
}

func (m *Module) read() ([]byte, error) {
	f, err := os.Open(m.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxModule+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxModule {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrCorrupt, maxModule)
	}
	raw, err = decompress(raw, maxModule)
	if err != nil {
		return nil, err
	}
	if len(raw) < 4 || string(raw[:4]) != "\x7fELF" {
		return nil, fmt.Errorf("%w: not an ELF file", ErrCorrupt)
	}
	return raw, nil
}
