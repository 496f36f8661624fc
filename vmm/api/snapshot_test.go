package api

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

func platformNone(c *vmm.Config) { c.Platform = vmm.PlatformNone }

// counted is what testguest.Spin had counted when its memory was saved to a file.
func counted(t testing.TB, memory string) uint64 {
	t.Helper()
	b, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b[testguest.Counter:])
}

// TestSnapshot: a machine is saved and goes on in other processes, with its devices, and with others in the place of some.
func TestSnapshot(t *testing.T) {
	c := bare(t, testguest.Spin, Config{})
	disk := file(t, "disk", 4096)
	c.ok("PUT", "/drives/d", fmt.Sprintf(`{"drive_id":"d","path_on_host":%q,"is_root_device":false,"is_read_only":true}`, disk))
	c.ok("PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true}`)
	c.ok("PUT", "/vsock", fmt.Sprintf(`{"guest_cid":3,"uds_path":%q}`, c.socket+"v"))
	c.ok("PUT", "/entropy", `{}`)
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	c.ok("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`)
	c.ok("PATCH", "/vm", `{"state":"Paused"}`)
	dir := t.TempDir()
	state, memory := filepath.Join(dir, "state"), filepath.Join(dir, "memory")
	create := fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q,"snapshot_type":"Full"}`, state, memory)
	for range 2 { // the second takes the place of the first
		c.ok("PUT", "/snapshot/create", create)
	}
	c.refused("PUT", "/snapshot/create", fmt.Sprintf(`{"snapshot_path":"/nowhere/s","mem_file_path":%q}`, filepath.Join(dir, "m")), "no such file")
	c.refused("PUT", "/snapshot/create", fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":"/nowhere/m"}`, filepath.Join(dir, "s")), "no such file")
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
	c.ok("PATCH", "/vm", `{"state":"Resumed"}`)

	load := fmt.Sprintf(`{"snapshot_path":%q,"mem_backend":{"backend_type":"File","backend_path":%q},"vsock_override":{"uds_path":"%%s"}`, state, memory)
	other := serve(t, Config{Change: platformNone})
	other.ok("PUT", "/metrics", fmt.Sprintf(`{"metrics_path":%q}`, file(t, "metrics", 0)))
	// What does not fit is refused, and leaves nothing behind.
	for body, want := range map[string]string{
		fmt.Sprintf(load, other.socket+"v") + `,"network_overrides":[{"iface_id":"e","host_dev_name":"t"}]}`: "has no interface",
		fmt.Sprintf(load, other.socket+"v") + `,"clock_realtime":true}`:                                      "no clock_realtime",
		fmt.Sprintf(load, other.socket+"v") + `,"huge_pages":"2M"}`:                                          "no other huge pages",
		fmt.Sprintf(load, c.socket+"v") + `}`:                                                                "another program listens there",
		fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q}`, memory, memory):                               "not a snapshot of hull vmm",
		fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q}`, disk, memory):                                 "not a snapshot of hull vmm",
		fmt.Sprintf(`{"snapshot_path":"/nowhere","mem_file_path":%q}`, memory):                               "no such file",
		fmt.Sprintf(`{"snapshot_path":%q,"mem_backend":{"backend_type":"Uffd","backend_path":"x"}}`, state):  "page fault handler at x: dial unix x: connect: no such file",
	} {
		other.refused("PUT", "/snapshot/load", body, want)
		if got := value(t, other.ok("GET", "/", ""), "state"); got != "Not started" {
			t.Fatalf("%s: state %v", body, got)
		}
	}
	other.ok("PUT", "/snapshot/load", fmt.Sprintf(load, other.socket+"v")+`}`)
	if got := value(t, other.ok("GET", "/", ""), "state"); got != "Paused" {
		t.Errorf("state %v", got)
	}
	config := other.ok("GET", "/vm/config", "")
	if !strings.Contains(config, `"boot-source":null`) || !strings.Contains(config, disk) || value(t, config, "machine-config", "mem_size_mib") != 16.0 {
		t.Errorf("configuration %s", config)
	}
	other.refused("PUT", "/snapshot/create", create, "it must be paused") // it has not run yet
	other.ok("PATCH", "/vm", `{"state":"Resumed"}`)
	other.ok("PATCH", "/vm", `{"state":"Paused"}`)
	other.ok("PUT", "/snapshot/create", create)
	if n := value(t, other.ok("GET", "/balloon", ""), "amount_mib"); n != 1.0 {
		t.Errorf("balloon of %v MiB", n)
	}

	third := serve(t, Config{Change: platformNone})
	third.ok("PUT", "/snapshot/load", fmt.Sprintf(load, third.socket+"v")+`,"resume_vm":true}`)
	if got := value(t, third.ok("GET", "/", ""), "state"); got != "Running" {
		t.Errorf("state %v", got)
	}
}

// TestSnapshotPair: files that do not belong together are refused, a pair that cannot be made leaves what was there, and what a
// process has left that was killed goes with the next.
func TestSnapshotPair(t *testing.T) {
	c := bare(t, testguest.Spin, Config{})
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	c.ok("PATCH", "/vm", `{"state":"Paused"}`)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	create := func(state, memory string) string {
		return fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q}`, at(state), at(memory))
	}
	for _, left := range []string{"one.s.incomplete-1", "one.m.incomplete-2"} {
		if err := os.MkdirAll(filepath.Join(at(left), "snapshot.incomplete-3"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.ok("PUT", "/snapshot/create", create("one.s", "one.m"))
	c.ok("PUT", "/snapshot/create", create("two.s", "two.m"))
	before, err := os.ReadFile(at("one.m"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("dir"), 0o700); err != nil { // no file takes its place
		t.Fatal(err)
	}
	c.refused("PUT", "/snapshot/create", create("dir", "one.m"), "file exists")
	c.refused("PUT", "/snapshot/create", create("dir", "new.m"), "file exists")
	if after, err := os.ReadFile(at("one.m")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("another memory after a snapshot that failed, %v", err)
	}
	var names []string
	left, err := os.ReadDir(dir)
	for _, e := range left {
		names = append(names, e.Name())
	}
	if want := []string{"dir", "one.m", "one.s", "two.m", "two.s"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, want %v, %v", names, want, err)
	}
	other := serve(t, Config{Change: platformNone})
	other.refused("PUT", "/snapshot/load", create("one.s", "two.m"), "belongs to another snapshot than the state beside it")
	other.ok("PUT", "/snapshot/load", create("one.s", "one.m"))
}

// TestDiffSnapshots: what changed is saved by itself, and can be loaded once it is merged: beside its base, or into it.
func TestDiffSnapshots(t *testing.T) {
	c := bare(t, testguest.Spin, Config{})
	c.ok("PATCH", "/machine-config", `{"track_dirty_pages":true}`)
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	dir := t.TempDir()
	files := func(name string) SnapshotFiles {
		return SnapshotFiles{filepath.Join(dir, name+".state"), filepath.Join(dir, name+".memory")}
	}
	create := func(f SnapshotFiles) string {
		return fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q,"snapshot_type":"Diff"}`, f.State, f.Memory)
	}
	load := func(f SnapshotFiles, more string) string {
		return fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q%s}`, f.State, f.Memory, more)
	}
	count := func(f SnapshotFiles) uint64 {
		t.Helper()
		return counted(t, f.Memory)
	}
	// further lets the guest of c count, and saves it to what to returns, until that has a higher count than base.
	further := func(c *client, base SnapshotFiles, to func(i int) SnapshotFiles) SnapshotFiles {
		t.Helper()
		before, deadline := count(base), time.Now().Add(patience)
		for i := 0; time.Now().Before(deadline); i++ {
			c.ok("PATCH", "/vm", `{"state":"Resumed"}`)
			c.ok("PATCH", "/vm", `{"state":"Paused"}`)
			next := to(i)
			c.ok("PUT", "/snapshot/create", create(next))
			if next != base {
				other := serve(t, Config{Change: platformNone})
				other.refused("PUT", "/snapshot/load", load(next, ""), "merge it into the one it is based on")
				if info, err := os.Stat(next.Memory); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
					t.Errorf("a differential snapshot takes %d bytes, %v", info.Sys().(*syscall.Stat_t).Blocks*512, err)
				}
				state, err := os.ReadFile(next.State)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 { // the second time as if the first had been cut short between its two files
					if err := os.WriteFile(next.State, state, 0o600); err != nil {
						t.Fatal(err)
					}
					if err := MergeSnapshots(base, next); err != nil {
						t.Fatal(err)
					}
				}
				base = next
			}
			if count(next) > before {
				return next
			}
		}
		t.Fatal("the guest does not count")
		panic("unreachable")
	}
	c.ok("PATCH", "/vm", `{"state":"Paused"}`)
	base := files("base")
	c.ok("PUT", "/snapshot/create", create(base)) // the first is a full one
	further(c, base, func(int) SnapshotFiles { return base })
	latest := further(c, base, func(i int) SnapshotFiles { return files(fmt.Sprint("diff", i)) })
	c.refused("PUT", "/snapshot/create", create(SnapshotFiles{latest.State + "x", latest.Memory}), "only together with its state")
	// What was to be the base of the next is lost.
	c.ok("PUT", "/snapshot/create", create(files("full")))
	if err := MergeSnapshots(base, files("full")); err == nil || !strings.Contains(err.Error(), "based on another") {
		t.Errorf("merged into a snapshot that it is not based on: %v", err)
	}
	if count(files("full")) != count(latest) {
		t.Errorf("%d is counted in a full snapshot, %d in one that was merged", count(files("full")), count(latest))
	}

	second := serve(t, Config{Change: platformNone})
	second.ok("PUT", "/snapshot/load", load(latest, `,"enable_diff_snapshots":true`))
	further(second, latest, func(i int) SnapshotFiles { return files(fmt.Sprint("onward", i)) })
	third := serve(t, Config{Change: platformNone})
	third.ok("PUT", "/snapshot/load", load(base, `,"resume_vm":true`))
	third.ok("PATCH", "/vm", `{"state":"Paused"}`)
	third.refused("PUT", "/snapshot/create", create(files("untracked")), "without track_dirty_pages")
}

// FuzzSnapshotConfig: what a file begins with is not trusted.
func FuzzSnapshotConfig(f *testing.F) {
	f.Add([]byte(snapshotMagic + "\x02\x00\x00\x00{}"))
	f.Add([]byte(snapshotMagic + "\xff\xff\xff\xff{}"))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if c, err := readSnapshotConfig(in); (c == nil) == (err == nil) {
			t.Errorf("%v, %v", c, err)
		}
	})
}
