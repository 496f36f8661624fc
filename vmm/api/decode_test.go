package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestDecode: the messages are those of the library that clients know, places included.
func TestDecode(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)
	for _, c := range []struct {
		to         any
		body, want string
	}{
		{&vmState{}, ``, "EOF while parsing a value at line 1 column 0"},
		{&vmState{}, `{`, "EOF while parsing a value at line 1 column 1"},
		{&vmState{}, `{"state":`, "EOF while parsing a value at line 1 column 9"},
		{&vmState{}, `x`, "expected value at line 1 column 1"},
		{&vmState{}, `{"state": "Paused",}`, "expected value at line 1 column 20"},
		{&vmState{}, `{"state": "Paused"} x`, "trailing characters at line 1 column 21"},
		{&vmState{}, `[]`, "invalid type: sequence, expected struct vmState at line 1 column 2"},
		{&vmState{}, `{}`, "missing field `state` at line 1 column 2"},
		{&vmState{}, `{"State": "Paused"}`, "unknown field `State`, expected `state` at line 1 column 8"},
		{&vmState{}, `{"state": 1}`, "invalid type: integer `1`, expected variant identifier at line 1 column 11"},
		{&vmState{}, `{"state": null}`, "invalid type: null, expected variant identifier at line 1 column 14"},
		{&vmState{}, "{\n  \"state\": \"Gone\"\n}", "unknown variant `Gone`, expected `Paused` or `Resumed` at line 2 column 17"},
		{&vmState{}, `{"state": "Paused", "state": "Paused"}`, "duplicate field `state` at line 1 column 27"},
		{&balloonPatch{}, `{"amount_mib": "1"}`, "invalid type: string \"1\", expected u32 at line 1 column 18"},
		{&balloonPatch{}, `{"amount_mib": true}`, "invalid type: boolean `true`, expected u32 at line 1 column 19"},
		{&balloonPatch{}, `{"amount_mib": 1.5}`, "invalid type: floating point `1.5`, expected u32 at line 1 column 18"},
		{&balloonPatch{}, `{"amount_mib": 1e3}`, "invalid type: floating point `1e3`, expected u32 at line 1 column 18"},
		{&balloonPatch{}, `{"amount_mib": {}}`, "invalid type: map, expected u32 at line 1 column 17"},
		{&balloonPatch{}, `{"amount_mib": 4294967296}`, "invalid value: integer `4294967296`, expected u32 at line 1 column 25"},
		{&balloonPatch{}, `{"amount_mib": -1}`, "invalid value: integer `-1`, expected u32 at line 1 column 17"},
		{&tokenBucket{}, `{"size": 18446744073709551616, "refill_time": 1}`, "invalid value: integer `18446744073709551616`, expected u64 at line 1 column 29"},
		{&balloon{}, `{"amount_mib": 1, "deflate_on_oom": "yes"}`, "invalid type: string \"yes\", expected a boolean at line 1 column 41"},
		{&bootSource{}, `{"kernel_image_path": 1}`, "invalid type: integer `1`, expected a string at line 1 column 23"},
		{&mmdsConfig{}, `{"network_interfaces": "e"}`, "invalid type: string \"e\", expected a sequence at line 1 column 26"},
		{&mmdsConfig{}, `{"network_interfaces": ["e", 1]}`, "invalid type: integer `1`, expected a string at line 1 column 30"},
		{&metricsConfig{}, `{"metrics_path": "m", "properties": {"a": 1}}`, "invalid type: integer `1`, expected a string at line 1 column 43"},
		{&metricsConfig{}, `{"metrics_path": "m", "properties": []}`, "invalid type: sequence, expected a map at line 1 column 38"},
		{&fullConfig{}, deep, "recursion limit exceeded at line 1 column 129"},
	} {
		err := decode([]byte(c.body), c.to)
		if err == nil || err.Error() != c.want {
			t.Errorf("%.60s: %v, want %s", c.body, err, c.want)
		}
	}
	var d drive
	err := decode([]byte(` { "drive_id" : "a" , "is_root_device":false,"rate_limiter":{"bandwidth":null,"ops":{"size":1,"refill_time":2}},"partuuid":null}`+"\n"), &d)
	if err != nil || d.DriveID != "a" || d.RateLimiter.Bandwidth != nil || d.RateLimiter.Ops.RefillTime != 2 || d.PartUUID != nil {
		t.Errorf("%+v, %v", d, err)
	}
}

// bodies are all types that a body is decoded to.
var bodies = []any{
	&bootSource{}, &drive{}, &drivePatch{}, &pmem{}, &pmemPatch{}, &networkInterface{}, &networkInterfacePatch{}, &vsock{}, &entropy{},
	&serial{}, &balloon{}, &balloonPatch{}, &balloonStatsPatch{}, &hintingStart{}, &machineConfig{}, &machineConfigPatch{}, &cpuConfig{},
	&loggerConfig{}, &metricsConfig{}, &mmdsConfig{}, &action{}, &vmState{}, &snapshotCreate{}, &snapshotLoad{}, &fullConfig{},
}

// FuzzDecode: no body panics, what is taken is JSON for encoding/json as well, and what is encoded again is taken again and means the
// same.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"kernel_image_path":"a","boot_args":"console=ttyS0"}`, `{"drive_id":"a","is_root_device":true,"rate_limiter":{"bandwidth":{"size":1,"refill_time":2}}}`,
		`{"vcpu_count":2,"mem_size_mib":1024,"huge_pages":"2M"}`, `{"iface_id":"e","host_dev_name":"t","mtu":1500}`, `{"guest_cid":3,"uds_path":"v"}`,
		`{"cpuid_modifiers":[{"leaf":"0x1","subleaf":"0","flags":0,"modifiers":[{"register":"eax","bitmap":"0bx1"}]}],"msr_modifiers":[{"addr":"1","bitmap":"0b"}]}`,
		`{"boot-source":{"kernel_image_path":"a"},"cpu-config":{"a":[]},"drives":[],"network-interfaces":[]}`, `{"action_type":"InstanceStart"}`,
		`{"snapshot_path":"s","mem_backend":{"backend_type":"File","backend_path":"m"}}`, `{"a":[1,2,{"b":null}],"c":"\ud800"}`, `[[[[`, `{"a":1}x`, "\xff", `nul`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, b := range bodies {
			v := reflect.New(reflect.TypeOf(b).Elem())
			err := decode(body, v.Interface())
			if err != nil {
				var j *jsonError
				if !errors.As(err, &j) || asFault(err).message == "" {
					t.Fatalf("error %v", err)
				}
				continue
			}
			if !json.Valid(body) {
				t.Fatalf("taken although it is not JSON: %q", body)
			}
			again := encode(v.Interface())
			w := reflect.New(v.Type().Elem())
			if err := decode(again, w.Interface()); err != nil {
				t.Fatalf("%s: %v", again, err)
			}
			if twice := encode(w.Interface()); string(twice) != string(again) {
				t.Fatalf("%s became %s", again, twice)
			}
		}
		if v, err := parseAny(body); err == nil {
			_, _ = mergePatch(v, v), encode(v)
		}
		var c cpuConfig
		if decode(body, &c) == nil {
			_, _ = c.template()
		}
	})
}

// FuzzRequests: whatever is asked before a start, in whatever order, is answered and ends in no panic. Paths of files are left out: a
// client may name any.
func FuzzRequests(f *testing.F) {
	f.Add("PUT", "/machine-config", []byte(`{"vcpu_count":2,"mem_size_mib":1024}`))
	f.Add("PATCH", "/mmds", []byte(`{"a":null}`))
	f.Add("PUT", "/vsock", []byte(`{"guest_cid":3,"uds_path":"v"}`))
	f.Add("GET", "/balloon/hinting/status", []byte(nil))
	f.Add("PUT", "/cpu-config", []byte(`{"msr_modifiers":[{"addr":"0x1","bitmap":"0b1"}]}`))
	f.Add("PATCH", "//drives//", []byte(`{}`))
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		for _, files := range []string{"path", "/serial", "/network", "host_dev_name"} {
			if strings.Contains(path, files) || strings.Contains(string(body), files) || strings.Contains(string(body), `\`) {
				t.Skip("it names a file of this host")
			}
		}
		s := New(Config{})
		defer s.Close()
		s.put0(t)
		for range 2 {
			if _, err := s.route(method, path, body); err != nil && asFault(err).message == "" {
				t.Fatalf("error %v", err)
			}
		}
		encode(s.fullConfig())
	})
}

// put0 gives a server something to change.
func (s *Server) put0(t *testing.T) {
	for path, body := range map[string]string{"/mmds": `{"a":1}`, "/balloon": `{"amount_mib":1,"deflate_on_oom":true}`} {
		if _, err := s.route("PUT", path, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
}
