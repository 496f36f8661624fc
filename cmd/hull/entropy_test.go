package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// entropyRequest is how many random bytes Linux's virtio_rng asks for at once.
const entropyRequest = 64

// helperEntropy boots a bare VM and tells how many random bytes the boot has taken from the host: by the interrupts of
// the entropy device, one for each request. It fails unless there are some, and no more than so many: entropy MOST
func helperEntropy(args []string) error {
	if err := usage(args, 1, "entropy MOST"); err != nil {
		return err
	}
	most, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	out, err := exec.Command("hull", "boot", "--append", `hull.exec="cat /proc/interrupts; ls /sys/bus/virtio/drivers/virtio_rng"`).Output()
	if err != nil {
		return err
	}
	interrupts := make(map[string]int) // by device
	device := ""
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 1 && strings.HasPrefix(words[0], "virtio"):
			device = words[0]
		case len(words) > 2 && strings.HasSuffix(words[0], ":"):
			if n, err := strconv.Atoi(words[1]); err == nil {
				interrupts[words[len(words)-1]] = n
			}
		}
	}
	n, ok := interrupts[device]
	if !ok {
		return fmt.Errorf("no interrupts of the entropy device %q in:\n%s", device, bytes.TrimSpace(out))
	}
	fmt.Printf("%d requests of the entropy device, %d bytes\n", n, n*entropyRequest)
	if n < 1 || n*entropyRequest > most {
		return errors.New("that is not what a boot takes")
	}
	return nil
}
