package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/images"
)

func webRecord(now time.Time) *engine.Record {
	return &engine.Record{
		ID: strings.Repeat("0123456789abcdef", 4), Name: "web", Created: now.Add(-3 * time.Hour),
		Config: engine.Config{
			Image: "nginx", Args: []string{"nginx", "-g", "daemon off; and more"},
			Labels: map[string]string{"com.example.tier-name": "front,back", "a": "1"},
			Mounts: []engine.Mount{
				{Source: "/a/directory/of/this/host", Target: "/a"}, {Source: "data", Target: "/b", Volume: true},
			},
		},
		ImageConfig: engine.ImageConfig{ExposedPorts: map[string]struct{}{"80/tcp": {}, "9000/tcp": {}, "9001/tcp": {}, "53/udp": {}}},
		State: engine.State{
			Status: engine.StatusRunning, Started: now.Add(-2 * time.Hour),
			Ports: []engine.PortBinding{
				{Host: netip.MustParseAddrPort("[::]:8080"), Container: 80, Protocol: "tcp"},
				{Host: netip.MustParseAddrPort("0.0.0.0:8080"), Container: 80, Protocol: "tcp"},
				{Host: netip.MustParseAddrPort("127.0.0.1:7001"), Container: 7001, Protocol: "tcp"},
				{Host: netip.MustParseAddrPort("127.0.0.1:7000"), Container: 7000, Protocol: "tcp"},
			},
		},
	}
}

// TestListingsHaveDockersFields: --format json has the names that docker's has, those of hull besides.
func TestListingsHaveDockersFields(t *testing.T) {
	now := time.Now()
	ps := containerRow(webRecord(now), false, now)
	ps["Networks"] = "bridge"
	for _, test := range []struct {
		command string
		row     row
		docker  string
		hulls   []string
	}{
		{"ps", ps, "Command CreatedAt ID Image Labels LocalVolumes Mounts Names Networks Ports RunningFor Size State Status", nil},
		{"images", imageRows(&images.Image{}, false, now)[0],
			"Containers CreatedAt CreatedSince Digest ID Repository SharedSize Size Tag UniqueSize", nil},
		{"history", historyRow(images.Step{}, false, true, now), "Comment CreatedAt CreatedBy CreatedSince ID Size", nil},
		{"network ls", networkRow(&engine.Network{}, false), "CreatedAt Driver ID IPv4 IPv6 Internal Labels Name Scope", nil},
		{"volume ls", volumeRow("data", "/data", nil), "Availability Driver Group Labels Links Mountpoint Name Scope Size Status", nil},
		{"system df", (&use{}).row(), "Active Reclaimable Size TotalCount Type", nil},
		{"stats", (&statsView{shown: []*engine.Record{webRecord(now)}}).rows()[0],
			"BlockIO CPUPerc Container ID MemPerc MemUsage Name NetIO PIDs", []string{"HostCPUPerc", "HostMem"}},
	} {
		data, err := json.Marshal(test.row)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]string
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(slices.Sorted(maps.Keys(fields)), func(name string) bool { return slices.Contains(test.hulls, name) })
		if want := strings.Fields(test.docker); !slices.Equal(got, want) {
			t.Errorf("%s: fields %q, want %q", test.command, got, want)
		}
	}
}

// TestListingsKnowTheirHeadings: every field that --format json shows can stand in a table.
func TestListingsKnowTheirHeadings(t *testing.T) {
	now := time.Now()
	one := containerRow(webRecord(now), false, now)
	one["Networks"] = "bridge"
	for _, test := range []struct{ format, want string }{
		{"table", "CONTAINER ID   IMAGE     COMMAND                  CREATED       STATUS       PORTS                                                                                                        NAMES\n" +
			`0123456789ab   nginx     "nginx -g 'daemon of…"   3 hours ago   Up 2 hours   127.0.0.1:7000-7001->7000-7001/tcp, 53/udp, 9000-9001/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp   web`},
		{`table {{.Names}}\t{{.State}}\t{{.LocalVolumes}}`, "NAMES     STATE     LOCAL VOLUMES\nweb       running   1"},
		{`table {{.ID}}\t{{.Label "com.example.tier-name"}}`, "CONTAINER ID   tier name\n0123456789ab   front,back"},
		{"{{.Names}}: {{.Ports}}", "web: 127.0.0.1:7000-7001->7000-7001/tcp, 53/udp, 9000-9001/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"},
		{`{{.Label "a"}}{{.Label "nope"}} {{.Labels}}`, "1 a=1,com.example.tier-name=front,back"},
		{"{{.Mounts}} {{.Networks}} {{.Size}}", "/a/directory/o…,data bridge 0B"},
		{`{{json .Names}} {{upper .State}}`, `"web" RUNNING`},
	} {
		var out bytes.Buffer
		if err := writeFormat(&out, test.format, containerColumns(), []row{one}, moreContainerColumns()...); err != nil {
			t.Errorf("%s: %v", test.format, err)
		}
		got := strings.TrimSuffix(out.String(), "\n")
		if test.format == "table" { // how wide a column is says its longest cell
			got, test.want = strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(test.want), " ")
		}
		if got != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.format, got, test.want)
		}
	}
	for field := range one {
		if strings.HasPrefix(field, labelPrefix) {
			continue
		}
		if err := writeFormat(&bytes.Buffer{}, "table {{."+field+"}}", containerColumns(), nil, moreContainerColumns()...); err != nil {
			t.Error(err)
		}
	}
}

func TestContainerStatus(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, test := range []struct {
		state engine.State
		want  string
	}{
		{engine.State{Status: engine.StatusRunning, Started: ago(3 * time.Minute)}, "Up 3 minutes"},
		{engine.State{Status: engine.StatusRunning, Started: ago(3 * time.Minute), Health: &engine.Health{Status: engine.HealthStarting}}, "Up 3 minutes (health: starting)"},
		{engine.State{Status: engine.StatusRunning, Started: ago(time.Minute), Health: &engine.Health{Status: "healthy"}}, "Up About a minute (healthy)"},
		{engine.State{Status: engine.StatusPaused, Started: ago(3 * time.Hour)}, "Up 3 hours (Paused)"},
		{engine.State{Status: engine.StatusExited, ExitCode: 137, Finished: ago(2 * 24 * time.Hour)}, "Exited (137) 2 days ago"},
		{engine.State{Status: engine.StatusRestarting, ExitCode: 1, Finished: ago(2 * time.Second)}, "Restarting (1) 2 seconds ago"},
		// The clock has been set back since.
		{engine.State{Status: engine.StatusRunning, Started: ago(-time.Hour)}, "Up Less than a second"},
		{engine.State{Status: engine.StatusExited, Finished: ago(-time.Hour)}, "Exited (0) Less than a second ago"},
		{engine.State{Status: engine.StatusCreated}, "Created"},
		{engine.State{Status: engine.StatusStarting}, "Created"},
		{engine.State{Status: engine.StatusDead}, "Dead"},
	} {
		if got := containerStatus(test.state, now); got != test.want {
			t.Errorf("%s: %q, want %q", test.state.Status, got, test.want)
		}
	}
}

func TestFitsName(t *testing.T) {
	for _, test := range []struct {
		name, filter string
		want         bool
	}{
		{"web", "web", true}, {"web-1", "web", true}, {"web-1", "^web$", false}, {"web", "^/web$", true},
		{"web", "w.b", true}, {"web", "[", false}, {"db", "web", false},
	} {
		if got := fitsName(test.name, test.filter); got != test.want {
			t.Errorf("name %q, filter %q: %v", test.name, test.filter, got)
		}
	}
}

// TestEventFormat: an event is docker's, as a line, as JSON and for a template.
func TestEventFormat(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 8, 9, 1000, time.Local)
	event := messageOf(engine.Event{Type: "container", Action: "start", ID: "0123", Attr: map[string]string{"name": "web", "image": "nginx"}, Time: at})
	nano, err := json.Marshal(at.UnixNano())
	if err != nil {
		t.Fatal(err)
	}
	seconds := strings.TrimSuffix(string(nano), "000001000")
	for format, want := range map[string]string{
		"": at.Format("2006-01-02T15:04:05") + ".000001000" + at.Format("Z07:00") + " container start 0123 (image=nginx, name=web)",
		"json": `{"status":"start","id":"0123","from":"nginx","Type":"container","Action":"start","Actor":{"ID":"0123","Attributes":{"image":"nginx","name":"web"}},` +
			`"scope":"local","time":` + seconds + `,"timeNano":` + string(nano) + `}`,
		"Type={{.Type}}  Status={{.Status}}  ID={{.ID}} {{.Actor.Attributes.name}}": "Type=container  Status=start  ID=0123 web",
	} {
		var out bytes.Buffer
		show, err := eventFormat(&out, format)
		if err == nil {
			err = show(event)
		}
		if got := strings.TrimSuffix(out.String(), "\n"); err != nil || got != want {
			t.Errorf("--format %q: %v\n%s\nwant\n%s", format, err, got, want)
		}
	}
}

// TestInspectHasDockersFields: inspect of a container has what docker's has.
func TestInspectHasDockersFields(t *testing.T) {
	e := engine.New(engine.Options{Dirs: engine.Dirs{Data: t.TempDir(), Run: t.TempDir(), Cache: t.TempDir()}})
	defer e.Close()
	all := inspected(e, webRecord(time.Now()))
	for of, want := range map[string]string{
		"": "AppArmorProfile Args Config Created Driver ExecIDs GraphDriver HostConfig HostnamePath HostsPath Id Image LogPath MountLabel Mounts Name " +
			"NetworkSettings Path Platform ProcessLabel ResolvConfPath RestartCount State",
		"State":           "Dead Error ExitCode FinishedAt OOMKilled Paused Pid Restarting Running StartedAt Status",
		"Config":          "AttachStderr AttachStdin AttachStdout Cmd Domainname Entrypoint Env ExposedPorts Healthcheck Hostname Image Labels OpenStdin StdinOnce StopSignal Tty User Volumes WorkingDir",
		"NetworkSettings": "Networks Ports",
	} {
		fields := all
		if of != "" {
			fields = all[of].(object)
		}
		if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: fields %q, want %q", of, got, strings.Fields(want))
		}
	}
}

// TestNamesAreCompleted: a command whose arguments are names of things that there are knows them.
func TestNamesAreCompleted(t *testing.T) {
	walk(newRoot(newApp(), entries()), func(cmd *cobra.Command) {
		_, args, _ := strings.Cut(cmd.Use, " ")
		creates := cmd.Name() == "create" && cmd.Parent().Name() != "hull" || cmd.Name() == "pull" || cmd.Name() == "import"
		names := slices.ContainsFunc([]string{"CONTAINER", "IMAGE", "NETWORK", "VOLUME", "NAME"}, func(word string) bool { return strings.Contains(args, word) })
		if names && !creates && cmd.ValidArgsFunction == nil {
			t.Errorf("%s: nobody completes %s", cmd.CommandPath(), args)
		}
	})
}
