package main

import (
	"errors"
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

// helperPace compares how a server at ADDRESS gets on, which answers "now" with how far it is and runs in the container of CIDFILE,
// while the container in FLOODFILE runs and while it is paused, turn and turn about. It fails if the server's VM keeps less than
// LEAST of the processor time that it has otherwise. That is what the flood can take from it, and does not change with what else the
// machine is doing; how much faster the server gets on does, and is printed with it:
// pace ADDRESS CIDFILE FLOODFILE ROUNDS LEAST
func helperPace(args []string) error {
	if err := usage(args, 5, "pace ADDRESS CIDFILE FLOODFILE ROUNDS LEAST"); err != nil {
		return err
	}
	id, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	flood, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	rounds, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	least, err := strconv.ParseFloat(args[4], 64)
	if err != nil {
		return err
	}
	server, err := newAsker(args[0])
	if err != nil {
		return err
	}
	defer server.conn.Close()
	own := processLike(isVMProcess, engine.ShortID(string(id)))
	if processorTime(own) == 0 {
		return errors.New("the server's VM is not there")
	}
	vm, supervisor := processLike(isVMProcess, engine.ShortID(string(flood))), processLike(isSupervisor, string(flood))
	var paused, flooded, ofVM, ofSupervisor gait
	for range rounds {
		if err := exec.Command("hull", "pause", string(flood)).Run(); err != nil {
			return fmt.Errorf("hull pause: %w", err)
		}
		g, err := pace(server, own)
		if err != nil {
			return err
		}
		paused = paused.plus(g[0])
		if err := exec.Command("hull", "unpause", string(flood)).Run(); err != nil {
			return fmt.Errorf("hull unpause: %w", err)
		}
		if g, err = pace(server, own, vm, supervisor); err != nil {
			return err
		}
		flooded, ofVM, ofSupervisor = flooded.plus(g[0]), ofVM.plus(g[1]), ofSupervisor.plus(g[2])
	}
	share, n := flooded.cpu/paused.cpu, float64(rounds)
	fmt.Printf("keeps %.3f of its processor, %.3f of its speed; CPUs: before %.3f, VM %.3f, supervisor %.3f\n",
		share, flooded.speed/paused.speed, paused.cpu/n, ofVM.cpu/n, ofSupervisor.cpu/n)
	if share < least {
		return fmt.Errorf("%.3f is less than %v", share, least)
	}
	return nil
}

// gait is how far a server gets in a second, and how much of a CPU a process takes.
type gait struct{ speed, cpu float64 }

func (g gait) plus(o gait) gait { return gait{g.speed + o.speed, g.cpu + o.cpu} }

// pace looks at a server, and at processes, for a while. All of them have the server's speed.
func pace(server *asker, pids ...int) ([]gait, error) {
	now := func() (n float64, at time.Time, used []time.Duration, err error) {
		answer, err := server.ask("now")
		if err == nil {
			n, err = strconv.ParseFloat(answer, 64)
		}
		for _, pid := range pids {
			used = append(used, processorTime(pid))
		}
		return n, time.Now(), used, err
	}
	n1, at1, used1, err := now()
	if err != nil {
		return nil, err
	}
	time.Sleep(pacePhase)
	n2, at2, used2, err := now()
	took := at2.Sub(at1)
	gaits := make([]gait, len(pids))
	for i := range gaits {
		gaits[i] = gait{(n2 - n1) / took.Seconds(), float64(used2[i]-used1[i]) / float64(took)}
	}
	return gaits, err
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
