package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/virtio/blk"
)

// diskOf is a disk that begins with what is said.
func diskOf(content string) []byte {
	p := make([]byte, 2*4096)
	copy(p, content)
	return p
}

// readDisk reads a container's disk, shared or not.
func readDisk(t *testing.T, path string) []byte {
	t.Helper()
	dir := path + sharedSuffix
	if info, err := os.Stat(filepath.Join(dir, sharedChanges)); err == nil && info.Size() == 0 { // no VM has had it yet
		path = filepath.Join(dir, sharedBase)
	} else if err == nil {
		flat := filepath.Join(t.TempDir(), "flat")
		if err := flatten(flat, filepath.Join(dir, sharedBase), filepath.Join(dir, sharedChanges)); err != nil {
			t.Fatal(err)
		}
		path = flat
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// writeDisk writes to the first blocks of a container's disk as its VM process does.
func writeDisk(t *testing.T, path string, off int, p []byte) {
	t.Helper()
	open := func(path string) *os.File {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	dir, file := path+sharedSuffix, path
	if _, err := os.Lstat(dir); err == nil {
		file = filepath.Join(dir, sharedBase)
	}
	b, err := blk.OpenFile(open(file))
	if err != nil {
		t.Fatal(err)
	}
	var backend blk.Backend = b
	if file != path {
		if backend, err = blk.OpenOverlay(b, open(filepath.Join(dir, sharedChanges))); err != nil {
			t.Fatal(err)
		}
	}
	sector := make([]byte, (len(p)+511)/512*512)
	copy(sector, p)
	var v blk.Vector
	v.Set(sector)
	if err := errors.Join(backend.WriteAt(&v, uint64(off), 0), backend.Flush()); err != nil {
		t.Fatal(err)
	}
}

// place makes a directory with the file of a checkpoint's disk in it, and those of n containers beside.
func place(t testing.TB, n int, content []byte) (saved string, containers []string) {
	t.Helper()
	dir := t.TempDir()
	saved = filepath.Join(dir, checkpointDisk)
	if err := os.WriteFile(saved, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		c := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(c, 0o700); err != nil {
			t.Fatal(err)
		}
		containers = append(containers, filepath.Join(c, scratchName))
	}
	return saved, containers
}

// TestDisksOfForks: each fork has what was saved and what it writes itself, whatever goes away.
func TestDisksOfForks(t *testing.T) {
	saved, disks := place(t, 3, diskOf("saved"))
	for i, disk := range disks {
		if err := putDisk(disk, saved); err != nil {
			t.Fatal(err)
		}
		writeDisk(t, disk, 4096, fmt.Append(nil, "fork ", i))
	}
	if b, err := os.ReadFile(saved); err != nil || !bytes.Equal(b, diskOf("saved")) {
		t.Errorf("the checkpoint is %.20q, %v", b, err)
	}
	if err := errors.Join(os.Remove(saved), os.RemoveAll(filepath.Dir(disks[0]))); err != nil {
		t.Fatal(err)
	}
	// A fork of a fork is of what that one has.
	again := filepath.Join(t.TempDir(), "saved")
	if err := os.WriteFile(again, readDisk(t, disks[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := putDisk(disks[2], again); err != nil {
		t.Fatal(err)
	}
	for _, disk := range disks[1:] {
		want := diskOf("saved")
		copy(want[4096:], "fork 1")
		if got := readDisk(t, disk); !bytes.Equal(got, want) {
			t.Errorf("%s: %.20q and %.20q", disk, got, got[4096:])
		}
		if entries, err := os.ReadDir(filepath.Dir(disk)); err != nil || len(entries) != 1 {
			t.Errorf("there are %v, %v", entries, err)
		}
	}
}

// TestDiskThatIsPutInThePlaceOfAnother, of either kind: at the end there is one.
func TestDiskThatIsPutInThePlaceOfAnother(t *testing.T) {
	saved, disks := place(t, 1, diskOf("saved"))
	disk := disks[0]
	temp := filepath.Join(filepath.Dir(disk), ".next")
	file := func() {
		t.Helper()
		if err := cloneFile(temp, saved); err != nil {
			t.Fatal(err)
		}
		if err := replaceDisk(temp, disk, disk+sharedSuffix); err != nil {
			t.Fatal(err)
		}
	}
	shared := func() {
		t.Helper()
		if err := shareFile(temp, saved); err != nil {
			t.Fatal(err)
		}
		if err := replaceDisk(temp, disk+sharedSuffix, disk); err != nil {
			t.Fatal(err)
		}
	}
	for i, put := range []func(){file, file, shared, shared, file, shared} {
		put()
		if got := readDisk(t, disk); !bytes.Equal(got, diskOf("saved")) {
			t.Errorf("step %d: %.20q", i, got)
		}
		if entries, err := os.ReadDir(filepath.Dir(disk)); err != nil || len(entries) != 1 {
			t.Errorf("step %d: there are %v, %v", i, entries, err)
		}
		writeDisk(t, disk, 0, []byte("written"))
	}
	table := &fileTable{}
	defer table.close()
	if d, err := openShared(disk, table); err != nil || !d.Keep || d.Overlay == nil || d.ReadOnly {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := openShared(saved, table); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not shared: %v", err)
	}
	for _, name := range []string{sharedChanges, sharedBase} {
		if err := os.Remove(filepath.Join(disk+sharedSuffix, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := openShared(disk, table); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a shared disk without %s: %v", name, err)
		}
	}
}

// TestDiskFromAnotherFileSystem is copied.
func TestDiskFromAnotherFileSystem(t *testing.T) {
	saved, _ := place(t, 0, diskOf("saved"))
	dir, err := os.MkdirTemp("/dev/shm", "hull")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, scratchName)
	if err := putDisk(disk, saved); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(disk); err != nil || !bytes.Equal(b, diskOf("saved")) {
		t.Errorf("%.20q, %v", b, err)
	}
}

// TestForksShareTheSpaceOfWhatTheyShare: the space that a hundred take is that of one, however it is divided among them.
func TestForksShareTheSpaceOfWhatTheyShare(t *testing.T) {
	const forks, size = 100, 8 << 20
	e := &Engine{}
	e.store.dirs.Data = t.TempDir()
	saved := filepath.Join(e.store.dirs.Data, checkpointDisk)
	if err := os.WriteFile(saved, bytes.Repeat([]byte("written "), size/8), 0o600); err != nil {
		t.Fatal(err)
	}
	before := free(t, e.store.dirs.Data)
	var ids []string
	for range forks {
		id := newID()
		ids = append(ids, id)
		if err := os.MkdirAll(e.store.dir(id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := putDisk(filepath.Join(e.store.dir(id), scratchName), saved); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(e.store.dir(ids[0]), scratchName)); err == nil {
		t.Skip("the file system has reflinks, and does not tell what they share")
	}
	if err := os.Remove(saved); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB less are free, as far as that says something here", (before-free(t, e.store.dirs.Data))>>20)
	var all int64
	for _, id := range ids {
		all += e.Written(id)
	}
	if all < size-forks || all > size+forks*(64<<10) {
		t.Errorf("%d forks of %d bytes take %d", forks, size, all)
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// BenchmarkForkDisk makes the disks of 20 forks of a container that has written 256 MiB.
func BenchmarkForkDisk(b *testing.B) {
	content := bytes.Repeat([]byte("written "), 256<<20/8)
	for name, put := range map[string]func(disk, saved string) error{"shared": putDisk, "copied": cloneFile} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				saved, disks := place(b, 20, content)
				b.StartTimer()
				for _, disk := range disks {
					if err := put(disk, saved); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				var n int64
				for _, disk := range disks {
					n += diskPart(disk) + diskPart(filepath.Join(disk+sharedSuffix, sharedBase)) + diskPart(filepath.Join(disk+sharedSuffix, sharedChanges))
				}
				if err := os.RemoveAll(filepath.Dir(saved)); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(n)/(1<<20), "MiB")
				b.StartTimer()
			}
		})
	}
}
