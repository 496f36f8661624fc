package api

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hullvm/hull/vmm/testguest"
)

// envHandler has this test binary be a page fault handler: of the memory file that it names, on the socket beside it.
const envHandler = "API_TEST_PAGE_HANDLER"

// handlerSocket is where the handler of a memory file listens.
func handlerSocket(memory string) *net.UnixAddr {
	return &net.UnixAddr{Name: memory + ".sock", Net: "unix"}
}

// beHandler is the process of a page fault handler.
func beHandler(memory string) int {
	l, err := net.ListenUnix("unix", handlerSocket(memory))
	if err == nil {
		fmt.Println("ready")
		err = handlePages(l, memory, new(atomic.Int64), nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// spun saves a machine whose guest counts in memory, and returns how to load it from a handler's socket, and its memory file.
func spun(t *testing.T) (load, memory string) {
	t.Helper()
	c := bare(t, testguest.Spin, Config{})
	c.ok("PUT", "/actions", `{"action_type":"InstanceStart"}`)
	dir, err := os.MkdirTemp("", "uffd-") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	state, memory := filepath.Join(dir, "s"), filepath.Join(dir, "m")
	countOn(c, state, memory, 0)
	return fmt.Sprintf(`{"snapshot_path":%q,"mem_backend":{"backend_type":"Uffd","backend_path":%q}`, state, handlerSocket(memory).Name), memory
}

// countOn pauses a machine that counts and saves it, until it has counted further than to n: one that is paused as soon as it
// is resumed may not have run between.
func countOn(c *client, state, memory string, n uint64) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c.ok("PATCH", "/vm", `{"state":"Paused"}`)
		c.ok("PUT", "/snapshot/create", fmt.Sprintf(`{"snapshot_path":%q,"mem_file_path":%q}`, state, memory))
		if counted(c.t, memory) > n {
			return
		}
		c.ok("PATCH", "/vm", `{"state":"Resumed"}`)
	}
	c.t.Fatalf("the guest has not counted further than %d in %v", n, patience)
}

// TestPageHandler: a machine goes on with memory that somebody else brings, a page at a time and only those that are touched; what
// is saved of it is all of it.
func TestPageHandler(t *testing.T) {
	load, memory := spun(t)
	l, err := net.ListenUnix("unix", handlerSocket(memory))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var brought atomic.Int64
	stop, handled := make(chan struct{}), make(chan error)
	go func() { handled <- handlePages(l, memory, &brought, stop) }()
	defer func() {
		close(stop)
		if err := <-handled; err != nil {
			t.Error(err)
		}
	}()
	c := serve(t, Config{Change: platformNone})
	c.ok("PUT", "/snapshot/load", load+"}")
	c.ok("PATCH", "/vm", `{"state":"Resumed"}`)
	for deadline := time.Now().Add(patience); brought.Load() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	c.ok("PATCH", "/vm", `{"state":"Paused"}`)
	if n := brought.Load(); n == 0 || n > 64 {
		t.Errorf("%d pages of %d were brought for a guest that touches a few", n, 16<<20/4096)
	}
	again := memory + ".again"
	countOn(c, again+".state", again, counted(t, memory))
	before, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	copy(after[testguest.Counter:][:8], before[testguest.Counter:])
	for i := range 16 << 20 { // the rest of the file says whose memory it is
		if before[i] != after[i] {
			t.Fatalf("the memory of %d and %d bytes is not what it was, at %#x", len(before), len(after), i)
		}
	}
}

// TestPageHandlerKilled: a machine whose memory does not come any more ends, and says why.
func TestPageHandlerKilled(t *testing.T) {
	load, memory := spun(t)
	handler := exec.Command(os.Args[0])
	handler.Env = append(os.Environ(), envHandler+"="+memory)
	handler.Stderr = os.Stderr
	out, err := handler.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := handler.Start(); err != nil {
		t.Fatal(err)
	}
	defer handler.Wait()
	defer handler.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c := serve(t, Config{Change: platformNone})
	c.ok("PUT", "/snapshot/load", load+`,"resume_vm":true}`)
	if err := handler.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.s.machine.Done()
	if end := c.s.machine.Wait(); !strings.Contains(end.Message, "handler at "+handlerSocket(memory).Name+" has ended") {
		t.Errorf("%+v", end)
	}
}

// TestNoPageHandler: a handler that is not there, or goes at once, is an error of the request.
func TestNoPageHandler(t *testing.T) {
	load, memory := spun(t)
	c := serve(t, Config{Change: platformNone})
	c.refused("PUT", "/snapshot/load", load+"}", "start the one that is to bring the memory first")
	if got := value(t, c.ok("GET", "/", ""), "state"); got != "Not started" {
		t.Errorf("state %v", got)
	}
	_ = memory
}
