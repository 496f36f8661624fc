package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hullvm/hull/vmm/testguest"
)

// helperGuest writes a bare-metal guest that counts for ever: guest FILE
func helperGuest(args []string) error {
	if err := usage(args, 1, "guest FILE"); err != nil {
		return err
	}
	return os.WriteFile(args[0], testguest.Spin, 0o600)
}

// helperMonitors runs many `hull vmm` at once, has each start a guest over its API, and ends them when all guests have run:
// monitors N GUEST
func helperMonitors(args []string) error {
	if err := usage(args, 2, "monitors N GUEST"); err != nil {
		return err
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vmm-") // sockets have short paths
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all := make([]*monitor, n)
	errs := make([]error, n)
	each := func(f func(i int) error) error {
		var wait sync.WaitGroup
		for i := range all {
			wait.Go(func() { errs[i] = f(i) })
		}
		wait.Wait()
		return errors.Join(errs...)
	}
	begin := time.Now()
	err = each(func(i int) (err error) {
		all[i], err = startMonitor(filepath.Join(dir, strconv.Itoa(i)), args[1])
		return err
	})
	if err == nil {
		fmt.Printf("%d run after %v\n", n, time.Since(begin).Round(time.Millisecond))
		err = each(func(i int) error { return all[i].running() }) // all at the same time
	}
	ended := each(func(i int) error {
		if all[i] == nil {
			return nil
		}
		return all[i].end()
	})
	if err := errors.Join(err, ended); err != nil {
		return err
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		return fmt.Errorf("%d files are left, %v", len(left), err)
	}
	fmt.Printf("%d ended\n", n)
	return nil
}

// monitor is a `hull vmm`.
type monitor struct {
	cmd    *exec.Cmd
	client http.Client
	stderr strings.Builder
}

// startMonitor starts one and its guest, and waits until the guest has run.
func startMonitor(socket, guest string) (*monitor, error) {
	m := &monitor{cmd: exec.Command("hull", "vmm", "--api-sock", socket, "--platform", "none")}
	m.cmd.Stderr = &m.stderr
	m.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	m.client = http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for { // until it listens
		if _, err := m.ask("GET", "/", ""); err == nil {
			break
		} else if time.Now().After(deadline) {
			return m, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, r := range [][2]string{
		{"/boot-source", fmt.Sprintf(`{"kernel_image_path":%q}`, guest)},
		{"/machine-config", `{"vcpu_count":1,"mem_size_mib":16}`},
		{"/actions", `{"action_type":"InstanceStart"}`},
	} {
		if _, err := m.ask("PUT", r[0], r[1]); err != nil {
			return m, err
		}
	}
	spoke := regexp.MustCompile(`(?m)^hull_vcpu_exits_total\{vcpu="0",reason="io"\} [1-9]`)
	for {
		counts, err := m.ask("GET", "/metrics/prometheus", "")
		switch {
		case err != nil || spoke.MatchString(counts):
			return m, err
		case time.Now().After(deadline):
			return m, errors.New("the guest does not run")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ask makes a request that must succeed.
func (m *monitor) ask(method, path, body string) (string, error) {
	r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	w, err := m.client.Do(r)
	if err != nil {
		return "", err
	}
	defer w.Body.Close()
	answer, err := io.ReadAll(w.Body)
	if err == nil && w.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s: %s", method, path, w.Status, answer)
	}
	return string(answer), err
}

func (m *monitor) running() error {
	if info, err := m.ask("GET", "/", ""); err != nil || !strings.Contains(info, `"state":"Running"`) {
		return fmt.Errorf("it does not run: %s, %v", info, err)
	}
	return nil
}

// end ends it in order, and waits for that.
func (m *monitor) end() error {
	m.client.CloseIdleConnections()
	late := time.AfterFunc(patience, func() { m.cmd.Process.Kill() })
	defer late.Stop()
	if err := m.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	if err := m.cmd.Wait(); m.cmd.ProcessState.ExitCode() != 128+int(unix.SIGTERM) {
		return fmt.Errorf("it ended otherwise than by the signal: %v: %s", err, m.stderr.String())
	}
	return nil
}
