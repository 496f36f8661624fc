package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/cmd/internal/engine"
	"github.com/hullvm/hull/vmm"
)

// envRounds says how often TestChaos kills; `make chaos` sets it.
const envRounds = "CHAOS_ROUNDS"

// TestChaos kills hull run, its VM process, or both, at random moments of the life of
// a container. Nothing may be left, and the next run must work.
func TestChaos(t *testing.T) {
	s := newSuite(t)
	s.need(t, "vm")
	rounds := 10
	if text := os.Getenv(envRounds); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil || rounds < 1 {
			t.Fatalf("%s=%s: want a number of rounds", envRounds, text)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("%d rounds, seed %d", rounds, seed)
	random := rand.New(rand.NewPCG(seed, 0))

	home, err := os.MkdirTemp(s.base, "")
	if err != nil {
		t.Fatal(err)
	}
	c := &chaos{home: home, binary: s.binary, environment: append(os.Environ(),
		"HOME="+home, "HULL_DATA_DIR="+filepath.Join(home, "data"), "HULL_RUN_DIR="+filepath.Join(home, "run"),
		"HULL_CACHE_DIR="+s.cache, envBootTimeout+"="+(2*patience).String())}
	c.run(t) // fills the cache, and has a VM saved
	templates := filepath.Join(s.cache, "templates", "*", vmm.SnapshotState)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if all, _ := filepath.Glob(templates); len(all) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no VM was saved within %v", patience)
		}
	}
	if err := untilNothingLeft(home); err != nil { // who has saved it
		t.Fatal(err)
	}
	whole := c.run(t) // how long a container takes, undisturbed
	for round := range rounds {
		c.cold = round%2 == 1
		victims := []string{"hull", "the VM", "both"}[random.IntN(3)]
		// Half of a run more than a run: some kills hit the workload at work.
		after := time.Duration(random.Int64N(int64(whole + whole/2)))
		if err := c.kill(victims, after); err != nil {
			t.Fatalf("round %d, SIGKILL to %s after %v: %v", round, victims, after, err)
		}
		t.Logf("round %d: SIGKILL to %s after %v: nothing left", round, victims, after.Round(time.Millisecond))
		if round%5 == 4 || round == rounds-1 {
			c.run(t)
		}
	}
}

// chaos is a place for containers that are killed.
type chaos struct {
	home, binary string
	environment  []string
	cold         bool // VMs boot, and do not start from the saved one
}

func (c *chaos) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.binary, args...)
	cmd.Env, cmd.Dir = c.environment, c.home
	if c.cold {
		cmd.Env = append(slices.Clone(cmd.Env), envCold+"=1")
	}
	return cmd
}

// run runs a container to its end and returns how long that took.
func (c *chaos) run(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	out, err := c.command("run", "--rm", "uroot", "echo", "fine").CombinedOutput()
	if err != nil || string(out) != "fine\n" {
		t.Fatalf("a run that nobody killed: %v, %q", err, out)
	}
	return time.Since(began)
}

// kill starts a container, sends SIGKILL to the victims some time later, and looks for
// what is left. A VM process that is not there yet cannot be killed: hull is instead.
func (c *chaos) kill(victims string, after time.Duration) error {
	cidfile := filepath.Join(c.home, "cid")
	defer os.Remove(cidfile)
	var said strings.Builder
	cmd := c.command("run", "--rm", "--cidfile", cidfile, "uroot", "sleep", "1000")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(after) // this is the random moment
	id, _ := os.ReadFile(cidfile)
	vm := 0
	if len(id) > 0 {
		vm = vmProcess(engine.ShortID(string(id)))
	}
	// Stopped first, so that "both" is what it says: neither can look after the other.
	if victims == "both" {
		cmd.Process.Signal(unix.SIGSTOP)
	}
	if victims != "hull" && vm != 0 {
		if err := unix.Kill(vm, unix.SIGKILL); err != nil {
			return fmt.Errorf("the VM process: %w", err)
		}
	}
	if victims != "the VM" || vm == 0 {
		cmd.Process.Kill()
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(patience):
		cmd.Process.Kill()
		<-ended
		return fmt.Errorf("hull runs on %v after the end of its VM", patience)
	}
	if victims == "the VM" && vm != 0 && !strings.Contains(said.String(), "the VM ended: killed by signal 9") {
		return fmt.Errorf("it does not say what happened: exit status %d, %q", cmd.ProcessState.ExitCode(), &said)
	}
	// A VM whose hull is gone ends by itself, at once.
	for end := time.Now().Add(patience); vm != 0 && unix.Kill(vm, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the VM process %d outlives its hull", vm)
		}
	}
	// Whatever nobody was left to remove, the next command does.
	if out, err := c.command("ps", "-aq").CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Errorf("hull ps -aq: %v, %q", err, out)
	}
	return leftBehind(c.home)
}
