package engine

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/jail"
)

// TestLendUser: VMs that live at the same time are different users, who own what they remove; a VM with shares is not.
func TestLendUser(t *testing.T) {
	if jail.Host().Users != nil {
		t.Skip("no users for VM processes here: ", jail.Host().Users)
	}
	s := &store{dirs: Dirs{Data: t.TempDir(), Run: t.TempDir()}}
	if err := s.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := s.prepare(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	mine, link := filepath.Join(s.dirs.Run, "mine"), filepath.Join(s.names(), "link")
	if err := errors.Join(os.MkdirAll(mine+"/vm", 0o700), os.WriteFile(mine+"/file", nil, 0o600), os.Symlink(mine, link)); err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]bool{}
	for range 300 {
		table, config := &fileTable{}, vmm.Config{OrphanRemove: []string{mine, link, mine + "/not there"}}
		if err := s.lendUser(&config, table); err != nil {
			t.Fatal(err)
		}
		defer table.close()
		if config.User < jail.FirstUser || config.User >= jail.Group || seen[config.User] {
			t.Fatalf("user %d after %d others", config.User, len(seen))
		}
		seen[config.User] = true
		for path, want := range map[string]int{mine: int(config.User), mine + "/vm": int(config.User), link: int(config.User), mine + "/file": 0} {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := int(info.Sys().(*syscall.Stat_t).Uid); got != want {
				t.Errorf("%s is of user %d, not %d", path, got, want)
			}
		}
	}
	shared := vmm.Config{Shares: []vmm.Share{{Tag: "a"}}}
	if err := s.lendUser(&shared, &fileTable{}); err != nil || shared.User != 0 {
		t.Errorf("with a share: user %d, %v", shared.User, err)
	}
	t.Setenv(jail.Env, jail.Off)
	open := vmm.Config{}
	if err := s.lendUser(&open, &fileTable{}); err != nil || open.User != 0 {
		t.Errorf("without a jail: user %d, %v", open.User, err)
	}
}

// TestLockUser: a user is free again when nobody has its lock any more.
func TestLockUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), usersName)
	take := func() (*os.File, uint32, error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		user, err := lockUser(f)
		return f, user, err
	}
	all, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	one, user, err := take()
	if err != nil {
		t.Fatal(err)
	}
	n := int64(user - jail.FirstUser)
	for _, span := range [][2]int64{{0, n}, {n + 1, jail.Users - n - 1}} {
		if span[1] == 0 {
			continue // of length 0 it would be to the end
		}
		if err := lockBytes(all, span[0], span[1]); err != nil {
			t.Fatal(err)
		}
	}
	if _, user, err := take(); !errors.Is(err, errNoUser) {
		t.Errorf("user %d when none is left: %v", user, err)
	}
	one.Close()
	if _, again, err := take(); again != user || err != nil {
		t.Errorf("user %d, %v; the only one that is free is %d", again, err, user)
	}
}

// TestCommonDirectories: what others could have prepared is refused still.
func TestCommonDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "common")
	if err := makeCommon(dir); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(dir); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if err := makeCommon(dir); !errors.Is(err, ErrForeignDir) {
		t.Errorf("a directory that a group may write to: %v", err)
	}
}
