package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hullvm/hull/kvm"
	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// needKVM skips a test where there is no KVM at all. Bare-metal guests need no more than that.
func needKVM(t testing.TB) {
	t.Helper()
	s, err := kvm.Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// client talks to a server as curl does.
type client struct {
	t      testing.TB
	s      *Server
	socket string
	http   http.Client
	ran    chan error // what Run returned
}

// serve runs a server until the test ends.
func serve(t testing.TB, cfg Config) *client {
	t.Helper()
	dir, err := os.MkdirTemp("", "api-") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, s: New(cfg), socket: filepath.Join(dir, "api.sock"), ran: make(chan error, 1)}
	l, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", c.socket) }}
	c.http = http.Client{Transport: transport, Timeout: patience}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := c.s.Run(ctx, l)
		c.ran <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-c.ran; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		if err := c.s.Close(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return c
}

// bare is a server whose machine runs a bare-metal guest, whatever kernel it is told to run.
func bare(t testing.TB, guest []byte, cfg Config) *client {
	t.Helper()
	needKVM(t)
	cfg.Change = func(c *vmm.Config) { c.Platform = vmm.PlatformNone }
	c := serve(t, cfg)
	path := filepath.Join(t.TempDir(), "guest.elf")
	if err := os.WriteFile(path, guest, 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path": %q}`, path))
	c.ok("PUT", "/machine-config", `{"vcpu_count": 1, "mem_size_mib": 16}`)
	return c
}

// ask makes a request and returns the answer.
func (c *client) ask(method, path, body string) (status int, answer string) {
	c.t.Helper()
	r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	w, err := c.http.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer w.Body.Close()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind := w.Header.Get("Content-Type"); len(b) > 0 && kind != "application/json" && !strings.HasPrefix(kind, "text/plain") {
		c.t.Errorf("%s %s: content type %q", method, path, kind)
	}
	return w.StatusCode, string(b)
}

// ok is a request that must succeed.
func (c *client) ok(method, path, body string) string {
	c.t.Helper()
	status, answer := c.ask(method, path, body)
	if want := map[bool]int{true: 200, false: 204}[method == "GET"]; status != want {
		c.t.Fatalf("%s %s %s: %d %s", method, path, body, status, answer)
	}
	return answer
}

// refused is a request that must fail with a message that has these words.
func (c *client) refused(method, path, body, want string) {
	c.t.Helper()
	status, answer := c.ask(method, path, body)
	var f struct {
		Message string `json:"fault_message"`
	}
	if err := json.Unmarshal([]byte(answer), &f); err != nil || status != http.StatusBadRequest || !strings.Contains(f.Message, want) {
		c.t.Errorf("%s %s %s: %d %s, want 400 with %q", method, path, body, status, answer, want)
	}
}

// value is one of a JSON answer.
func value(t testing.TB, answer string, path ...string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("no %v in %s", path, answer)
		}
		v = m[p]
	}
	return v
}

// file makes a file of size bytes.
func file(t testing.TB, name string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c := serve(t, Config{ID: "vm-1"})
	for _, want := range []struct{ path, answer string }{
		{"/", `{"id":"vm-1","state":"Not started","vmm_version":"` + Version + `","app_name":"Firecracker"}`},
		{"/version", `{"firecracker_version":"` + Version + `"}`},
		{"/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}`},
		{"/mmds", `{}`},
	} {
		if got := c.ok("GET", want.path, ""); got != want.answer {
			t.Errorf("GET %s: %s, want %s", want.path, got, want.answer)
		}
	}
	if got := c.ok("GET", "/vm/config", ""); value(t, got, "machine-config", "vcpu_count") != 1.0 || value(t, got, "boot-source") != nil {
		t.Errorf("GET /vm/config: %s", got)
	}
}

// TestRules are those about what a request may be, and when, with the words that clients know.
func TestRules(t *testing.T) {
	c := serve(t, Config{})
	disk, odd := file(t, "disk", 4096), file(t, "odd", 513)
	const deserialize = "An error occurred when deserializing the json body of a request: "
	for _, r := range []struct{ method, path, body, want string }{
		{"GET", "/nothing/here", "", "Invalid request method and/or path: GET nothing."},
		{"GET", "/machine-config", "{}", "GET request cannot have a body."},
		{"PUT", "/nothing", "{}", "Invalid request method and/or path: PUT nothing."},
		{"PUT", "/drives/a", "", "Empty PUT request."},
		{"PATCH", "/vm", "", "Empty PATCH request."},
		{"PATCH", "/machine-config", "{}", "Empty PATCH request."},
		{"DELETE", "/drives/a", "", "Invalid request method and/or path: DELETE drives."},
		{"POST", "/actions", "{}", "Invalid request method and/or path: POST actions."},

		{"PUT", "/drives", "{}", "The ID cannot be empty."},
		{"PUT", "/drives/a-b", "{}", "API Resource IDs can only contain alphanumeric characters and underscores."},
		{"PUT", "/drives/a%20b", "{}", "API Resource IDs can only contain alphanumeric characters and underscores."},
		{"PUT", "/drives/a", `{"drive_id":"b","is_root_device":false}`, "The id from the path does not match the id from the body!"},
		{"PUT", "/drives/a", `{"drive_id":"a"}`, deserialize + "missing field `is_root_device` at line 1 column 16."},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"is_read_only":false,"path_on_host":"/nowhere"}`,
			"Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) /nowhere"},
		{"PUT", "/drives/a", fmt.Sprintf(`{"drive_id":"a","is_root_device":false,"path_on_host":%q}`, odd), "not whole sectors"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/dev/null"}`, "not a regular file or a block device"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"socket":"/s"}`, "hull, which has no vhost-user disks"},
		{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"cache_type":"Never"}`, "unknown variant `Never`, expected `Unsafe` or `Writeback`"},
		{"PUT", "/drives/a", fmt.Sprintf(`{"drive_id":"a","is_root_device":true,"partuuid":"a b","path_on_host":%q}`, disk), "cannot be one"},
		{"PATCH", "/drives/a", `{"drive_id":"a","path_on_host":"/x"}`, "not supported before starting the microVM."},

		{"PUT", "/machine-config", `{"vcpu_count":1}`, "missing field `mem_size_mib`"},
		{"PUT", "/machine-config", `{"vcpu_count":0,"mem_size_mib":128}`, "Machine config error: The number of vCPUs must be greater than 0"},
		{"PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`, "The number of vCPUs must be greater than 0"},
		{"PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":128,"smt":true}`, "must be 1 or an even number if SMT is enabled"},
		{"PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":128,"smt":true}`, "no simultaneous multithreading"},
		{"PUT", "/machine-config", `{"vcpu_count":300,"mem_size_mib":128}`, "invalid value: integer `300`, expected u8"},
		{"PUT", "/machine-config", `{"vcpu_count":-1,"mem_size_mib":128}`, "invalid value: integer `-1`, expected u8"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":0}`, "Machine config error: The memory size (MiB)"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":129,"huge_pages":"2M"}`, "not a multiple of the configured page size"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":18446744073709551615}`, "The memory size (MiB)"},
		{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"huge_pages":"7M"}`, "unknown variant `7M`"},
		{"PATCH", "/machine-config", `{"cpu_template":"T2"}`, "no CPU template T2"},
		{"PATCH", "/machine-config", `{"foo":1}`, "unknown field `foo`, expected one of `vcpu_count`, `mem_size_mib`"},

		{"PUT", "/boot-source", `{}`, "missing field `kernel_image_path`"},
		{"PUT", "/boot-source", `{"kernel_image_path":"/nowhere"}`, "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)"},
		{"PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":%q,"initrd_path":"/nowhere"}`, disk), "The initrd file cannot be opened due to invalid path or invalid permissions. No such file"},
		{"PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":%q,"boot_args":"a\nb"}`, disk), "The kernel command line is invalid"},
		{"PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":%q,"boot_args":%q}`, disk, strings.Repeat("x", 2048)), "The kernel command line is invalid"},

		{"PUT", "/network-interfaces/e", `{"iface_id":"e"}`, "missing field `host_dev_name`"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"t","guest_mac":"12"}`, "Invalid MAC address: 12"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"t","guest_mac":"01:00:00:00:00:01"}`, "belongs to no single device"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"t","mtu":67}`, "must be 68 to 65535"},
		{"PUT", "/network-interfaces/e", `{"iface_id":"e","host_dev_name":"a name that is too long"}`, "Open tap device failed"},
		{"PATCH", "/network-interfaces/e", `{"iface_id":"e"}`, "not supported before starting the microVM."},

		{"PUT", "/vsock", `{"guest_cid":2,"uds_path":"/x"}`, "must be 3 to 4294967294"},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":""}`, "must have 1 to"},
		{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"` + strings.Repeat("x", 108) + `"}`, "must have 1 to"},
		{"PUT", "/entropy", `{"rate_limiter":{"bandwidth":{"size":1}}}`, "missing field `refill_time`"},
		{"PUT", "/serial", `{"serial_out_path":"/nowhere/file"}`, "No such file or directory (os error 2)"},
		{"PUT", "/pmem/p", `{"id":"p","path_on_host":"/nowhere"}`, "Error opening backing file: No such file"},
		{"PUT", "/pmem/p", fmt.Sprintf(`{"id":"p","path_on_host":%q}`, file(t, "empty", 0)), "file size is 0"},
		{"PATCH", "/pmem/p", `{"id":"p"}`, "not supported before starting the microVM."},

		{"GET", "/balloon", "", "No balloon device found."},
		{"GET", "/balloon/statistics", "", "not supported before starting the microVM."},
		{"GET", "/balloon/hinting/status", "", "not supported before starting the microVM."},
		{"GET", "/balloon/other", "", "Unrecognized GET request path `other`."},
		{"PUT", "/balloon", `{"amount_mib":1}`, "missing field `deflate_on_oom`"},
		{"PUT", "/balloon", `{"amount_mib":129,"deflate_on_oom":true}`, "Amount of pages requested is too large."},
		{"PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true,"free_page_hinting":true}`, "no free page hinting"},
		{"PATCH", "/balloon", `{"amount_mib":1}`, "not supported before starting the microVM."},
		{"PATCH", "/balloon/hinting/start", ``, "not supported before starting the microVM."},
		{"PATCH", "/balloon/hinting/dance", ``, "Unrecognized PATCH request path"},

		{"PUT", "/cpu-config", `{"kvm_capabilities":["121"]}`, "no kvm_capabilities"},
		{"PUT", "/cpu-config", `{"cpuid_modifiers":[{"leaf":"x","subleaf":"0x0","flags":0,"modifiers":[]}]}`, "Failed to parse string [x] as a number"},
		{"PUT", "/cpu-config", `{"cpuid_modifiers":[{"leaf":"1","subleaf":"0","flags":0,"modifiers":[{"register":"ekx","bitmap":"0b1"}]}]}`, "unknown variant `ekx`"},
		{"PUT", "/cpu-config", `{"msr_modifiers":[{"addr":"0x10","bitmap":"0b2"}]}`, "its bits must be 0, 1 or x"},
		{"PUT", "/cpu-config", `{"msr_modifiers":[{"addr":"0x10","bitmap":"0b` + strings.Repeat("x", 65) + `"}]}`, "1 to 64 bits"},
		{"PUT", "/cpu-config", `{"msr_modifiers":[{"addr":"0x10","bitmap":"12"}]}`, "does not begin with 0b"},
		{"PUT", "/cpu-config", `{"vcpu_features":[{}]}`, "another architecture"},

		{"PUT", "/logger", `{"level":"Loud"}`, "unknown variant `Loud`"},
		{"PUT", "/logger", `{"log_path":"/nowhere/log"}`, "No such file or directory (os error 2)"},
		{"PUT", "/metrics", `{}`, "missing field `metrics_path`"},
		{"PUT", "/metrics", `{"metrics_path":"/nowhere/log"}`, "No such file or directory (os error 2)"},

		{"PATCH", "/mmds", `{"a":1}`, "The MMDS data store is not initialized."},
		{"PUT", "/mmds/config", `{"network_interfaces":[]}`, "is empty."},
		{"PUT", "/mmds/config", `{"network_interfaces":["e"]}`, "does not correspond to any existing network interface."},
		{"PUT", "/mmds/config", `{"network_interfaces":["e"],"version":"V3"}`, "unknown variant `V3`, expected `V1` or `V2`"},
		{"PUT", "/mmds", `{"a":}`, "expected value at line 1"},

		{"PUT", "/actions", `{"action_type":"Dance"}`, "unknown variant `Dance`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`"},
		{"PUT", "/actions", `{"action_type":"InstanceStart"}`, "Start microvm error: Cannot start microvm without kernel configuration."},
		{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, "not supported before starting the microVM."},
		{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, "not supported before starting the microVM."},
		{"PATCH", "/vm", `{"state":"Paused"}`, "not supported before starting the microVM."},
		{"PATCH", "/vm", `{"state":"Flying"}`, "unknown variant `Flying`, expected `Paused` or `Resumed`"},

		{"PUT", "/snapshot", `{}`, "Missing snapshot operation type."},
		{"PUT", "/snapshot/other", `{}`, "Invalid request method and/or path: PUT /snapshot/other."},
		{"PUT", "/snapshot/create", `{"mem_file_path":"m","snapshot_path":"s"}`, "not supported before starting the microVM."},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s"}`, "missing field: either `mem_backend` or `mem_file_path` is required"},
		{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_file_path":"m","mem_backend":{"backend_type":"File","backend_path":"m"}}`, "too many fields"},
		{"PUT", "/hotplug/memory", `{}`, "no hotplugged memory"},
		{"PATCH", "/hotplug/memory", `{}`, "no hotplugged memory"},
		{"GET", "/hotplug/memory", ``, "no hotplugged memory"},
	} {
		c.refused(r.method, r.path, r.body, r.want)
	}
	// A refused update leaves what was there.
	c.ok("PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":256,"track_dirty_pages":true}`)
	c.refused("PATCH", "/machine-config", `{"vcpu_count":4,"mem_size_mib":0}`, "memory size")
	c.ok("PATCH", "/machine-config", `{"mem_size_mib":512}`)
	want := `{"vcpu_count":2,"mem_size_mib":512,"smt":false,"track_dirty_pages":true,"huge_pages":"None"}`
	if got := c.ok("GET", "/machine-config", ""); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestDoubledIDs: a device of the same name is replaced, a second root is none.
func TestDoubledIDs(t *testing.T) {
	c := serve(t, Config{})
	one, two := file(t, "one", 4096), file(t, "two", 8192)
	drive := func(id, path string, root bool) string {
		return fmt.Sprintf(`{"drive_id":%q,"path_on_host":%q,"is_root_device":%v,"is_read_only":true}`, id, path, root)
	}
	c.ok("PUT", "/drives/data", drive("data", one, false))
	c.ok("PUT", "/drives/root", drive("root", two, true))
	c.refused("PUT", "/drives/data", drive("data", one, true), "A root block device already exists!")
	c.refused("PUT", "/pmem/p", fmt.Sprintf(`{"id":"p","path_on_host":%q,"root_device":true}`, one), "root device")
	c.ok("PUT", "/drives/data", drive("data", two, false))
	c.ok("PUT", "/pmem/p", fmt.Sprintf(`{"id":"p","path_on_host":%q}`, one))
	c.ok("PUT", "/pmem/p", fmt.Sprintf(`{"id":"p","path_on_host":%q,"read_only":true}`, two))
	c.ok("PUT", "/vsock", `{"guest_cid":3,"uds_path":"/a"}`)
	c.ok("PUT", "/vsock", `{"guest_cid":4,"uds_path":"/b"}`)
	var got fullConfig
	if err := decode([]byte(c.ok("GET", "/vm/config", "")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Drives) != 2 || got.Drives[0].DriveID != "root" || *got.Drives[1].PathOnHost != two {
		t.Errorf("drives %+v", got.Drives)
	}
	if len(got.Pmem) != 1 || !got.Pmem[0].ReadOnly || got.Vsock.GuestCID != 4 {
		t.Errorf("persistent memory %+v, vsock %+v", got.Pmem, got.Vsock)
	}
	c.refused("PUT", "/snapshot/load", `{"snapshot_path":"s","mem_file_path":"m"}`, "not allowed after configuring boot-specific resources.")
}

// TestCommandLine: the root file system is where the disks say, before what is for the first process.
func TestCommandLine(t *testing.T) {
	yes := true
	for _, c := range []struct {
		args *string
		r    resources
		want string
	}{
		{nil, resources{}, defaultBootArgs},
		{ptr("a b"), resources{drives: []*drive{{IsRootDevice: true}}}, "a b root=/dev/vda rw"},
		{ptr(""), resources{drives: []*drive{{IsRootDevice: true, IsReadOnly: &yes}}}, "root=/dev/vda ro"},
		{ptr("a -- b c"), resources{drives: []*drive{{IsRootDevice: true, PartUUID: ptr("0eaa91a0-01")}}}, "a root=PARTUUID=0eaa91a0-01 rw -- b c"},
		{ptr("a"), resources{drives: []*drive{{}}, pmems: []*pmem{{}, {RootDevice: true, ReadOnly: true}}}, "a root=/dev/pmem1 ro"},
		{ptr("a"), resources{drives: []*drive{{}}}, "a"},
	} {
		c.r.boot = &bootSource{BootArgs: c.args}
		if got := c.r.commandLine(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestLife is a machine from its configuration to its end, with every request that is for a machine that runs.
func TestLife(t *testing.T) {
	log, metrics := file(t, "log", 0), file(t, "metrics", 0)
	c := bare(t, testguest.Spin, Config{})
	disk, other := file(t, "disk", 1<<20), file(t, "other", 2<<20)
	c.ok("PUT", "/logger", fmt.Sprintf(`{"log_path":%q,"level":"debug","show_level":true,"show_log_origin":true}`, log))
	c.ok("PUT", "/metrics", fmt.Sprintf(`{"metrics_path":%q,"emit_id":true,"properties":{"tenant":"t1"}}`, metrics))
	c.refused("PUT", "/metrics", fmt.Sprintf(`{"metrics_path":%q}`, metrics), "Reinitialization of metrics not allowed.")
	c.ok("PUT", "/drives/a_disk_with_a_name_longer_than_20", fmt.Sprintf(
		`{"drive_id":"a_disk_with_a_name_longer_than_20","path_on_host":%q,"is_root_device":false,
		  "rate_limiter":{"bandwidth":{"size":1000000,"refill_time":100,"one_time_burst":5},"ops":null}}`, disk))
	c.ok("PUT", "/pmem/p", fmt.Sprintf(`{"id":"p","path_on_host":%q}`, file(t, "pmem", 2<<20)))
	c.ok("PUT", "/entropy", `{"rate_limiter":{"ops":{"size":10,"refill_time":60000}}}`)
	c.ok("PUT", "/balloon", `{"amount_mib":2,"deflate_on_oom":false,"stats_polling_interval_s":1}`)
	c.ok("PUT", "/vsock", fmt.Sprintf(`{"guest_cid":3,"uds_path":%q}`, c.socket+"v"))
	c.ok("PUT", "/serial", fmt.Sprintf(`{"serial_out_path":%q}`, file(t, "serial", 0)))
	c.ok("PUT", "/mmds", `{"a":{"b":"c"}}`)

	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	if got := value(t, c.ok("GET", "/", ""), "state"); got != "Running" {
		t.Errorf("state %v", got)
	}
	const after = "The requested operation is not supported after starting the microVM."
	for path, body := range map[string]string{
		"/actions": `{"action_type":"InstanceStart"}`, "/boot-source": `{"kernel_image_path":"x"}`,
		"/machine-config": `{"vcpu_count":1,"mem_size_mib":1}`, "/drives/d": `{"drive_id":"d","is_root_device":false}`,
		"/network-interfaces/e": `{"iface_id":"e","host_dev_name":"t"}`, "/pmem/q": `{"id":"q","path_on_host":"x"}`,
		"/vsock": `{"guest_cid":3,"uds_path":"x"}`, "/entropy": `{}`, "/serial": `{}`, "/logger": `{}`,
		"/balloon": `{"amount_mib":1,"deflate_on_oom":true}`, "/metrics": `{"metrics_path":"x"}`, "/cpu-config": `{}`,
		"/mmds/config": `{"network_interfaces":["e"]}`, "/snapshot/load": `{"snapshot_path":"s","mem_file_path":"m"}`,
	} {
		c.refused("PUT", path, body, after)
	}
	c.refused("PATCH", "/machine-config", `{"vcpu_count":1}`, after)

	// Disks, by the client's name although the guest cannot be told all of it.
	path := "/drives/a_disk_with_a_name_longer_than_20"
	change := func(file string) string {
		return fmt.Sprintf(`{"drive_id":"a_disk_with_a_name_longer_than_20","path_on_host":%q}`, file)
	}
	if err := os.Truncate(disk, 3<<20); err != nil {
		t.Fatal(err)
	}
	c.ok("PATCH", path, change(disk)) // the same file, longer
	c.ok("PATCH", path, change(other))
	c.refused("PATCH", path, change("/nowhere"), "No such file or directory (os error 2)")
	c.ok("PATCH", path, `{"drive_id":"a_disk_with_a_name_longer_than_20","rate_limiter":{"ops":{"size":5,"refill_time":1000}}}`)
	c.refused("PATCH", path, `{"drive_id":"a_disk_with_a_name_longer_than_20"}`, "nothing to change")
	c.refused("PATCH", "/drives/none", `{"drive_id":"none","path_on_host":"/x"}`, "there is no drive")
	config := c.ok("GET", "/vm/config", "")
	for _, want := range []string{`"path_on_host":"` + other + `"`, `"ops":{"size":5,`, `"bandwidth":{"size":1000000,"one_time_burst":null`} {
		if !strings.Contains(config, want) {
			t.Errorf("no %s in %s", want, config)
		}
	}
	c.ok("PATCH", "/pmem/p", `{"id":"p","rate_limiter":{"ops":{"size":5,"refill_time":1000}}}`)
	c.refused("PATCH", "/pmem/q", `{"id":"q"}`, "there is no device")
	c.refused("PATCH", "/network-interfaces/e", `{"iface_id":"e"}`, "there is no interface")

	// The balloon of a guest that has no driver for it.
	c.ok("PATCH", "/balloon", `{"amount_mib":4}`)
	c.refused("PATCH", "/balloon", `{"amount_mib":17}`, "Amount of pages requested is too large.")
	if got := c.ok("GET", "/balloon", ""); value(t, got, "amount_mib") != 4.0 {
		t.Errorf("balloon %s", got)
	}
	c.ok("PATCH", "/balloon/statistics", `{"stats_polling_interval_s":2}`)
	c.refused("PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`, "Cannot enable/disable the statistics after boot.")
	if got := c.ok("GET", "/balloon/statistics", ""); value(t, got, "target_pages") != 1024.0 || value(t, got, "actual_mib") != 0.0 {
		t.Errorf("statistics %s", got)
	}
	c.refused("GET", "/balloon/hinting/status", "", "Hinting is not enabled")
	c.refused("PATCH", "/balloon/hinting/start", `{"acknowledge_on_stop":true}`, "Hinting is not enabled")
	c.refused("PATCH", "/balloon/hinting/stop", ``, "Hinting is not enabled")

	// What is stored for the guest can change at any time.
	c.ok("PATCH", "/mmds", `{"a":{"b":null,"d":1.50}}`)
	if got := c.ok("GET", "/mmds", ""); got != `{"a":{"d":1.50}}` {
		t.Errorf("metadata %s", got)
	}

	// The keys, of which a guest without a driver reads none: there is an end to how many wait.
	for range 4 {
		c.ok("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`)
	}
	c.refused("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, "does not read its keyboard")

	c.refused("PUT", "/snapshot/create", `{"mem_file_path":"m","snapshot_path":"s"}`, "must be paused")
	for range 2 { // either is what it is already
		c.ok("PATCH", "/vm", `{"state":"Paused"}`)
	}
	if got := value(t, c.ok("GET", "/", ""), "state"); got != "Paused" {
		t.Errorf("state %v", got)
	}
	c.refused("PUT", "/snapshot/create", `{"mem_file_path":"m","snapshot_path":"s","snapshot_type":"Full"}`, "persistent memory, which is not saved")
	c.refused("PUT", "/snapshot/create", `{"mem_file_path":"m","snapshot_path":"s","snapshot_type":"Diff"}`, "without track_dirty_pages")
	c.ok("PATCH", "/drives/a_disk_with_a_name_longer_than_20", change(disk))
	for range 2 {
		c.ok("PATCH", "/vm", `{"state":"Resumed"}`)
	}

	c.ok("PUT", "/actions", `{"action_type":"FlushMetrics"}`)
	c.ok("PUT", "/actions", `{"action_type":"FlushMetrics"}`)
	written, err := os.ReadFile(metrics)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(written)), "\n")
	if len(lines) != 2 || value(t, lines[0], "id") != DefaultID || value(t, lines[0], "properties", "tenant") != "t1" {
		t.Errorf("metrics %s", written)
	}
	if n := value(t, lines[0], "put_api_requests", "count"); n.(float64) < 10 {
		t.Errorf("%v PUT requests", n)
	}
	if n := value(t, lines[1], "put_api_requests", "count"); n != 1.0 { // since the line before
		t.Errorf("%v PUT requests between two lines", n)
	}
	scraped := c.ok("GET", "/metrics/prometheus", "")
	for _, want := range []string{
		"\nhull_running 1\n", `hull_vcpu_exits_total{vcpu="0",reason="io"} `, `hull_boot_stage_seconds{stage="kvm"} `,
		`hull_disk_reads_total{drive="a_disk_with_a_name_longer_than_20"} 0`, `hull_api_requests_total{method="GET",status="200"} `,
	} {
		if !strings.Contains(scraped, want) {
			t.Errorf("no %q in\n%s", want, scraped)
		}
	}
	logged, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`[anonymous-instance:Info:api] The API server received a Put request on "/actions" with body "{\"action_type\":\"InstanceStart\"}".`,
		`Received Error. Status code: 400 Bad Request. Message: The requested operation is not supported after`,
		`[anonymous-instance:Info:api] The API server received a Patch request on "/mmds".`,
	} {
		if !strings.Contains(string(logged), want) {
			t.Errorf("no %q in\n%s", want, logged)
		}
	}
}

// TestGuestEnds: the server ends with the guest, whose last words are where its serial port leads.
func TestGuestEnds(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := bare(t, testguest.Hello, Config{Stdout: out})
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	select {
	case err := <-c.ran:
		c.ran <- err
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the server does not end")
	}
	if end := c.s.Result(); end.Reason != vmm.ReasonReboot {
		t.Errorf("ended as %+v", end)
	}
	if said, err := os.ReadFile(out.Name()); err != nil || string(said) != "hello\r\n" {
		t.Errorf("console %q, %v", said, err)
	}
}

// TestStartCanBeTriedAgain: after a start that failed nothing is left of it, not even a descriptor.
func TestStartCanBeTriedAgain(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := bare(t, testguest.Spin, Config{Stdout: out})
	kernel := file(t, "kernel", 4096)
	c.ok("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path": %q}`, kernel))
	c.refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, "not a kernel")
	before := descriptors(t)
	for range 10 {
		c.refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, "not a kernel")
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
	if err := os.WriteFile(kernel, testguest.Spin, 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestLoans: what a machine has closed is not closed again, what it has not is.
func TestLoans(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var l loans
	closed, err := l.share(f)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := l.share(f)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := closed.Open(os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	taken.Close()
	other, err := os.Open(os.DevNull) // it may get the number
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l.takeBack()
	if _, err := other.Stat(); err != nil {
		t.Errorf("something else was closed: %v", err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/self/fd/%d", kept.FD)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a loan was not closed: %v", err)
	}
}

// TestCPUTemplate: what a template says reaches KVM, and what KVM does not know is said.
func TestCPUTemplate(t *testing.T) {
	c := bare(t, testguest.Spin, Config{})
	c.ok("PUT", "/cpu-config", `{"cpuid_modifiers":[{"leaf":"0x7ffffff","subleaf":"0b0","flags":0,"modifiers":[{"register":"eax","bitmap":"0b1"}]}]}`)
	c.refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, "no CPUID leaf 0x7ffffff")
	c.ok("PUT", "/cpu-config", `{"msr_modifiers":[{"addr":"0x12345678","bitmap":"0b1"}]}`)
	c.refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, "MSR 0x12345678")
	c.ok("PUT", "/cpu-config", `{"kvm_capabilities":[],"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0x0","flags":0,
		"modifiers":[{"register":"ecx","bitmap":"0bxxxx_xxxx_xxxx_xxxx_xxxx_xxxx_xxxx_xxx0"}]}],"msr_modifiers":[{"addr":"0x1a0","bitmap":"0bx"}]}`)
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

// TestConfigFile: what /vm/config answers is a file that configures the same machine and starts it.
func TestConfigFile(t *testing.T) {
	c := bare(t, testguest.Spin, Config{})
	c.ok("PUT", "/drives/d", fmt.Sprintf(`{"drive_id":"d","path_on_host":%q,"is_root_device":true,"is_read_only":true}`, file(t, "disk", 4096)))
	c.ok("PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true}`)
	c.ok("PUT", "/cpu-config", `{"cpuid_modifiers":[]}`)
	first := c.ok("GET", "/vm/config", "")
	path := filepath.Join(t.TempDir(), "vm.json")
	if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	other := serve(t, Config{Change: func(c *vmm.Config) { c.Platform = vmm.PlatformNone }})
	if err := other.s.LoadFile(path); err != nil {
		t.Fatal(err)
	}
	if got := value(t, other.ok("GET", "/", ""), "state"); got != "Running" {
		t.Errorf("state %v", got)
	}
	if second := other.ok("GET", "/vm/config", ""); second != first {
		t.Errorf("configured as\n%s, want\n%s", second, first)
	}
	for body, want := range map[string]string{
		`{}`: "missing field `boot-source`",
		`{"boot-source":{"kernel_image_path":"/nowhere"}}`: "No such file",
		`{"boot_source":{}}`:                 "unknown field `boot_source`",
		strings.Repeat(" ", maxConfigFile+1): "longer than",
		`{"boot-source":{"kernel_image_path":"/dev/null"},"drives":[{"drive_id":"a-b","is_root_device":false}]}`: "alphanumeric",
	} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		s := New(Config{})
		if err := s.LoadFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", body, err, want)
		}
		s.Close()
	}
	s := New(Config{})
	defer s.Close()
	if err := s.LoadFile(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestManyRequests: a thousand a second, on the slowest of machines, are not even many.
func TestManyRequests(t *testing.T) {
	c := serve(t, Config{})
	const n = 2000
	began := time.Now()
	for i := range n {
		c.ok("PATCH", "/machine-config", fmt.Sprintf(`{"mem_size_mib":%d}`, i+1))
	}
	took := time.Since(began)
	t.Logf("%d requests in %v", n, took)
	if got := value(t, c.ok("GET", "/machine-config", ""), "mem_size_mib"); got != float64(n) {
		t.Errorf("memory %v", got)
	}
}

func BenchmarkRequests(b *testing.B) {
	c := serve(b, Config{})
	for b.Loop() {
		c.ok("PUT", "/machine-config", `{"vcpu_count":2,"mem_size_mib":256}`)
	}
}

// TestOneAnswerEach: many clients at once, of whom one starts the machine.
func TestOneAnswerEach(t *testing.T) {
	c := bare(t, testguest.Spin, Config{})
	answers := make(chan int, 20)
	for range cap(answers) {
		go func() {
			r, err := http.NewRequest("PUT", "http://localhost/actions", bytes.NewBufferString(`{"action_type":"InstanceStart"}`))
			if err != nil {
				answers <- 0
				return
			}
			w, err := c.http.Do(r)
			if err != nil {
				answers <- 0
				return
			}
			w.Body.Close()
			answers <- w.StatusCode
		}()
	}
	count := map[int]int{}
	for range cap(answers) {
		count[<-answers]++
	}
	if count[204] != 1 || count[400] != cap(answers)-1 {
		t.Errorf("answers %v", count)
	}
}
