package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/hullvm/hull/cmd/internal/engine"
)

// pacePhase is how long helperPace looks at a time.
const pacePhase = 2 * time.Second

// helperPace compares how fast a server at ADDRESS gets on, which answers "now" with how far it is, while the container in
// CIDFILE runs and while it is paused, turn and turn about. It prints the share of its speed that the server keeps, and how much
// of a CPU the container's VM and its supervisor have taken, and fails if the share is less: pace ADDRESS CIDFILE ROUNDS LEAST
func helperPace(args []string) error {
	if err := usage(args, 4, "pace ADDRESS CIDFILE ROUNDS LEAST"); err != nil {
		return err
	}
	id, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	rounds, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	least, err := strconv.ParseFloat(args[3], 64)
	if err != nil {
		return err
	}
	server, err := newAsker(args[0])
	if err != nil {
		return err
	}
	defer server.conn.Close()
	vm, supervisor := processLike(isVMProcess, engine.ShortID(string(id))), processLike(isSupervisor, string(id))
	var paused, flooded, ofVM, ofSupervisor float64
	for range rounds {
		if err := exec.Command("hull", "pause", string(id)).Run(); err != nil {
			return fmt.Errorf("hull pause: %w", err)
		}
		speed, err := pace(server)
		if err != nil {
			return err
		}
		paused += speed
		if err := exec.Command("hull", "unpause", string(id)).Run(); err != nil {
			return fmt.Errorf("hull unpause: %w", err)
		}
		began, vmBefore, supervisorBefore := time.Now(), processorTime(vm), processorTime(supervisor)
		if speed, err = pace(server); err != nil {
			return err
		}
		flooded += speed
		took := time.Since(began)
		ofVM += float64(processorTime(vm)-vmBefore) / float64(took)
		ofSupervisor += float64(processorTime(supervisor)-supervisorBefore) / float64(took)
	}
	share, n := flooded/paused, float64(rounds)
	fmt.Printf("keeps %.3f; CPUs: VM %.3f, supervisor %.3f\n", share, ofVM/n, ofSupervisor/n)
	if share < least {
		return fmt.Errorf("%.3f is less than %v", share, least)
	}
	return nil
}

// pace is how far the server gets in a second.
func pace(server *asker) (float64, error) {
	now := func() (n float64, at time.Time, err error) {
		answer, err := server.ask("now")
		if err == nil {
			n, err = strconv.ParseFloat(answer, 64)
		}
		return n, time.Now(), err
	}
	n1, at1, err := now()
	if err != nil {
		return 0, err
	}
	time.Sleep(pacePhase)
	n2, at2, err := now()
	return (n2 - n1) / at2.Sub(at1).Seconds(), err
}

// processorTime is what a process has taken of CPUs; 0 if there is none.
func processorTime(pid int) time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11]) // proc(5): fields 14 and 15 of the line
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}
