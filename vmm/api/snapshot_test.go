package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

func platformNone(c *vmm.Config) { c.Platform = vmm.PlatformNone }

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
		fmt.Sprintf(`{"snapshot_path":%q,"mem_backend":{"backend_type":"Uffd","backend_path":"x"}}`, state):  "no memory backends",
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
