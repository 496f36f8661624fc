package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hullvm/hull/vmm"
	"github.com/hullvm/hull/vmm/testguest"
)

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
	saved := t.TempDir()
	c.ok("PUT", "/snapshot/create", fmt.Sprintf(`{"mem_file_path":%q,"snapshot_path":%q,"snapshot_type":"Full"}`, filepath.Join(saved, "m"), filepath.Join(saved, "s")))
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

// TestJSONLog: each line is an object, whatever clients put into it.
func TestJSONLog(t *testing.T) {
	path := file(t, "log", 0)
	c := serve(t, Config{ID: "vm-1"})
	if err := c.s.Log(LogOptions{Path: path, Level: "info", JSON: true}); err != nil {
		t.Fatal(err)
	}
	c.refused("PUT", "/nothing", "{\"a\":\"\\n\n\"}", "Invalid request method")
	logged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(logged)), "\n")
	if len(lines) != 2 || value(t, lines[1], "level") != "Error" {
		t.Errorf("%s", logged)
	}
	for _, line := range lines {
		if value(t, line, "id") != "vm-1" || value(t, line, "msg") == nil || value(t, line, "time") == nil {
			t.Errorf("line %s", line)
		}
	}
}
