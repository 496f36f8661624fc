package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestMetrics: what each VM has counted is told together, and of one by HTTP.
func TestMetrics(t *testing.T) {
	e := newTestEngine(t)
	if all, err := e.Metrics(t.Context()); err != nil || len(all) != 0 || Exposition(all) != "" {
		t.Errorf("of nothing: %v, %v", all, err)
	}
	first, second := background(t, e, sh2("exec sleep 100")), background(t, e, sh2("exec sleep 100"))
	all, err := e.Metrics(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	text := Exposition(all)
	for _, id := range []string{first, second} {
		for _, name := range []string{"hull_entropy_bytes_total{container=\"" + id + "\",name=\"" + get(t, e, id).Name + "\"} 42\n", "hull_running{container=\"" + id + "\","} {
			if strings.Count(text, name) != 1 {
				t.Errorf("no %q in\n%s", name, text)
			}
		}
	}
	if n := strings.Count(text, "# TYPE hull_host_memory_bytes gauge\n"); n != 1 || all[0].Host.Memory == 0 {
		t.Errorf("%d times, %+v", n, all[0].Host)
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(e.store.runDir(first), controlName))
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	for path, want := range map[string]string{metricsPath: "name=\"" + get(t, e, first).Name + "\"} 42\n", "/": "there is only"} {
		w, err := client.Get("http://localhost" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(w.Body)
		w.Body.Close()
		if err != nil || !strings.Contains(string(body), want) || strings.Contains(string(body), second) || (w.StatusCode == 200) != (path == metricsPath) {
			t.Errorf("%s: %s %s, %v", path, w.Status, body, err)
		}
	}
}
