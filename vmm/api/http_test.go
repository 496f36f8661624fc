package api

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hullvm/hull/vmm/testguest"
)

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
