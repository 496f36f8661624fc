package rootfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loopDisk makes a block device of a file, and returns its name.
func loopDisk(t *testing.T, file string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this machine has no loop devices for us: %v", err)
	}
	defer control.Close()
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	for range 100 { // another test may be given the same one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("no free loop device: %v", err)
		}
		name := fmt.Sprint("loop", n)
		dev, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("no loop device: %v", err)
		}
		t.Cleanup(func() { dev.Close() })
		err = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(back.Fd()))
		if err == unix.EBUSY {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0) })
		return name
	}
	t.Skip("all loop devices are busy")
	return ""
}

// The file system on a volume's disk grows to the disk's size, once and for all.
func TestMountVolume(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		if mke2fs = "/usr/sbin/mke2fs"; unix.Access(mke2fs, unix.X_OK) != nil {
			t.Skip("needs mke2fs")
		}
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Truncate(file, 700<<20); err != nil {
		t.Fatal(err)
	}
	disk := loopDisk(t, file)
	at := t.TempDir()
	for round := range 2 {
		if err := MountVolume(disk, "/dev", at, false); err != nil {
			if errors.Is(err, unix.EPERM) {
				t.Skipf("needs CAP_SYS_RESOURCE: %v", err)
			}
			t.Fatal(err)
		}
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if size := st.Blocks * uint64(st.Bsize); err != nil || size < 600<<20 {
			t.Errorf("round %d: %d MiB, %v", round, size>>20, err)
		}
		if err := os.WriteFile(filepath.Join(at, "file"), []byte("kept"), 0o600); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := MountVolume(disk, "/dev", at, true); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	if got, err := os.ReadFile(filepath.Join(at, "file")); string(got) != "kept" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); err == nil {
		t.Error("a volume that is to be read only was written to")
	}
}

// What is no ext4 is not mounted as one.
func TestMountVolumeRefuses(t *testing.T) {
	if err := MountVolume("no/disk", "/dev", t.TempDir(), false); err == nil {
		t.Error("mounted a disk by a path")
	}
	if err := MountVolume("null", "/dev", t.TempDir(), false); err == nil || !strings.Contains(err.Error(), "not a block device") {
		t.Errorf("mounted a character device: %v", err)
	}
}
