package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// qemuCommand runs the guest under QEMU's microvm, with its serial port on the standard streams.
func qemuCommand(qemu string, size uint64, more ...string) *exec.Cmd {
	cmd := exec.Command(qemu, append([]string{
		"-M", "microvm", "-accel", "kvm", "-cpu", "qemu64", "-m", strconv.FormatUint(size>>20, 10),
		"-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"}, more...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// qemuSave boots the guest and has QEMU migrate it to a file.
func qemuSave(qemu, guest string, size uint64, file string) (time.Duration, error) {
	socket := filepath.Join(filepath.Dir(file), "qmp")
	cmd := qemuCommand(qemu, size, "-kernel", guest, "-qmp", "unix:"+socket+",server=on,wait=off")
	in, out, err := start(cmd)
	if err != nil {
		return 0, err
	}
	defer stop(cmd)
	if err := expect(out, 'R'); err != nil {
		return 0, err
	}
	if _, err := in.Write([]byte("h")); err != nil {
		return 0, err
	}
	if err := expect(out, 'h'); err != nil {
		return 0, err
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	q := &qmp{enc: json.NewEncoder(conn), lines: bufio.NewScanner(conn)}
	if err := q.execute("qmp_capabilities", nil, nil); err != nil { // migrating stops it, and what is restored runs then
		return 0, err
	}
	if err := warm(size); err != nil {
		return 0, err
	}
	begin := time.Now()
	// Without a bound QEMU spreads it over minutes.
	if err := q.execute("migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 40}, nil); err != nil {
		return 0, err
	}
	if err := q.execute("migrate", map[string]any{"uri": "exec:cat > " + file}, nil); err != nil {
		return 0, err
	}
	for {
		var info struct{ Status string }
		if err := q.execute("query-migrate", nil, &info); err != nil {
			return 0, err
		}
		switch info.Status {
		case "completed":
			return time.Since(begin), nil
		case "failed", "cancelled":
			return 0, fmt.Errorf("migration: %s", info.Status)
		}
		time.Sleep(time.Millisecond)
	}
}

// qmp speaks QEMU's monitor protocol.
type qmp struct {
	enc   *json.Encoder
	lines *bufio.Scanner
}

func (q *qmp) execute(command string, arguments map[string]any, result any) error {
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	if err := q.enc.Encode(message); err != nil {
		return err
	}
	for q.lines.Scan() {
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(q.lines.Bytes(), &answer); err != nil {
			return err
		}
		switch {
		case answer.Error != nil:
			return fmt.Errorf("%s: %s", command, answer.Error.Desc)
		case answer.Return != nil && result != nil:
			return json.Unmarshal(answer.Return, result)
		case answer.Return != nil:
			return nil
		}
	}
	return fmt.Errorf("%s: %w", command, io.ErrUnexpectedEOF)
}

// qemuRestore starts QEMU from the file: exec to the guest's first answer.
func qemuRestore(qemu, guest string, size uint64, file string) (time.Duration, error) {
	cmd := qemuCommand(qemu, size, "-kernel", guest, "-incoming", "exec:cat "+file)
	begin := time.Now()
	in, out, err := start(cmd)
	if err != nil {
		return 0, err
	}
	defer stop(cmd)
	// What comes in before the state is loaded is lost with it: so it is asked again and again.
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := in.Write([]byte("a")); err != nil {
				return // QEMU is gone, which expect sees
			}
			select {
			case <-tick.C:
			case <-answered:
				return
			}
		}
	}()
	if err := expect(out, 'a'); err != nil {
		stop(cmd)
		return 0, fmt.Errorf("%w: %s", err, cmd.Stderr)
	}
	return time.Since(begin), nil
}

func start(cmd *exec.Cmd) (io.WriteCloser, io.Reader, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stderr = &bytes.Buffer{}
	return in, out, cmd.Start()
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
}

// expect reads the guest's next byte.
func expect(out io.Reader, want byte) error {
	if f, ok := out.(*os.File); ok {
		if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
	}
	var p [1]byte
	if _, err := io.ReadFull(out, p[:]); err != nil || p[0] != want {
		return fmt.Errorf("the guest says %q, want %q: %v", p[0], want, err)
	}
	return nil
}
