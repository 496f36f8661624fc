package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

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
