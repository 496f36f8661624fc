package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/hullvm/hull/cmd/lab/internal/keeper"
)

// keepName is the hidden command of the process that owns a started machine.
const keepName = "keep"

// ready is what that process says on file descriptor 3 when its machine is up.
const ready = "ready"

// start leaves a keeper behind and returns when its machine is up.
func start(f machineFlags) error {
	place, err := keeper.At(f.name)
	if err != nil {
		return err
	}
	if _, err := place.Status(); err == nil {
		fmt.Fprintf(os.Stderr, "lab %s: it is running already\n", f.name)
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer r.Close()
	log, err := os.OpenFile(place.Log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		w.Close()
		return fmt.Errorf("lab: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", keepName, "--name", f.name,
		"--cpus", strconv.Itoa(f.config.CPUs), "--memory", strconv.Itoa(f.config.Memory),
		"--deterministic="+strconv.FormatBool(f.config.Deterministic), "--console", f.console, "--qemu", f.config.QEMU)
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("lab: starting the keeper: %w", err)
	}
	line, _ := bufio.NewReader(r).ReadString('\n')
	if strings.TrimSpace(line) == ready {
		return cmd.Process.Release()
	}
	_ = cmd.Wait()
	said, _ := os.ReadFile(place.Log())
	if text := strings.TrimSpace(string(said)); text != "" {
		return errors.New(text)
	}
	return fmt.Errorf("lab: the keeper ended: %s", cmd.ProcessState)
}

// keep owns a machine until it ends or is told to end it.
func keep(f machineFlags) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	place, err := keeper.At(f.name)
	if err != nil {
		return err
	}
	k, err := keeper.Start(ctx, place, f.config)
	if err != nil {
		return err
	}
	tell := os.NewFile(3, "ready")
	fmt.Fprintln(tell, ready)
	tell.Close()
	return k.Serve(ctx)
}
