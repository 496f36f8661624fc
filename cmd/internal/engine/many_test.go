package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestMany has 200 containers, of which 20 run: they are listed in less than a tenth of a second, and all stop and go.
func TestMany(t *testing.T) {
	const containers, running, most = 200, 20, 100 * time.Millisecond
	e := newTestEngine(t)
	var ids []string
	for i := range containers {
		c, err := e.Create(t.Context(), fmt.Sprintf("c%d", i), Config{Image: "test", Args: []string{"sh", "-c", "exec sleep 1000"}})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID())
		t.Cleanup(func() { _ = e.Remove(context.Background(), c.ID(), true) })
		if i%(containers/running) != 0 {
			if err := c.Leave(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if _, err := c.Start(t.Context(), StartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// The fastest of many, since this machine may have other things to do.
	fastest := time.Hour
	for n, end := 0, time.Now().Add(patience); n < 20 || fastest > most && time.Now().Before(end); n++ {
		began := time.Now()
		all, err := e.List(t.Context())
		fastest = min(fastest, time.Since(began))
		if err != nil || len(all) != containers {
			t.Fatalf("%d containers, %v", len(all), err)
		}
	}
	t.Logf("%d containers, %d of them running, are listed in %v", containers, running, fastest)
	if fastest > most {
		t.Errorf("listing takes %v, at most %v are allowed", fastest, most)
	}
	var stops sync.WaitGroup
	for _, id := range ids {
		if !get(t, e, id).State.Alive() {
			continue
		}
		stops.Go(func() {
			if err := e.Stop(t.Context(), id, StopOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	stops.Wait()
	removed, _, err := e.PruneContainers(t.Context(), func(*Record) bool { return true })
	if err != nil || len(removed) != containers {
		t.Errorf("%d removed, %v", len(removed), err)
	}
	mustBeEmpty(t, e)
}
