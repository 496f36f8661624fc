package network

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// TapFiles is a tap interface that has been opened: what a VM process needs of it.
type TapFiles struct {
	Queues []*os.File // one for each queue pair of the guest
	MTU    int        // bytes
}

// Close closes the files; an interface that is not persistent is gone when nobody has them open.
func (t *TapFiles) Close() error {
	var errs []error
	for _, f := range t.Queues {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// MaxQueues is the most queues of a tap interface that one network card has use for.
const MaxQueues = 8

const (
	tunDevice = "/dev/net/tun"
	// maxTapName is IFNAMSIZ without the NUL.
	maxTapName = 15
)

// CheckTapName reports why name cannot be that of an interface.
func CheckTapName(name string) error {
	switch {
	case name == "":
		return errors.New("a tap interface needs a name")
	case len(name) > maxTapName:
		return fmt.Errorf("tap interface %q: a name has at most %d characters", name, maxTapName)
	case name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00"):
		return fmt.Errorf("tap interface %q: no interface can be called that", name)
	}
	return nil
}

// OpenTap opens the tap interface of that name, with up to as many queues as are asked for: a tap that was made without
// multi_queue has one. It may be used by its owner, and by root. If there is none, root gets a new one, set up, which
// goes when the last of its files is closed.
func OpenTap(name string, queues int) (_ *TapFiles, err error) {
	if err := CheckTapName(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("tap interface %s: %w", name, err)
		}
	}()
	ctl, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(ctl)
	_, err = askInterface(ctl, unix.SIOCGIFINDEX, name)
	exists := err == nil
	if exists && inUse(name) {
		return nil, errTapBusy
	}
	t := &TapFiles{}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 || exists {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for len(t.Queues) < max(queues, 1) {
		f, err := openTapQueue(name, flags)
		if errors.Is(err, unix.EINVAL) && len(t.Queues) == 0 && flags&unix.IFF_MULTI_QUEUE != 0 {
			flags &^= unix.IFF_MULTI_QUEUE
			queues = 1
			continue
		}
		if err != nil {
			return nil, explainTap(err, name, exists)
		}
		t.Queues = append(t.Queues, f)
	}
	ifr, err := askInterface(ctl, unix.SIOCGIFMTU, name)
	if err != nil {
		return nil, fmt.Errorf("its MTU: %w", err)
	}
	t.MTU = int(ifr.Uint32())
	if exists {
		return t, nil
	}
	ifr, err = askInterface(ctl, unix.SIOCGIFFLAGS, name)
	if err == nil {
		ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
		err = unix.IoctlIfreq(ctl, unix.SIOCSIFFLAGS, ifr)
	}
	if err != nil {
		return nil, fmt.Errorf("setting it up: %w", err)
	}
	return t, nil
}

// inUse tells whether somebody has a tap interface open, as far as it shows: one with several queues would take further
// users.
func inUse(name string) bool {
	dir := "/sys/class/net/" + name
	if _, err := os.Stat(dir + "/tun_flags"); err != nil {
		return false // not a tap
	}
	carrier, err := os.ReadFile(dir + "/carrier") // not to be read while the interface is down
	return err == nil && strings.HasPrefix(string(carrier), "1")
}

func askInterface(ctl int, request uint, name string) (*unix.Ifreq, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	return ifr, unix.IoctlIfreq(ctl, request, ifr)
}

func openTapQueue(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: tunDevice, Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(flags)
		err = ifreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

var errTapBusy = errors.New("something else is using it")

// explainTap says what the error of openTapQueue means.
func explainTap(err error, name string, exists bool) error {
	var path *os.PathError
	switch {
	case errors.As(err, &path) && errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: this host's kernel has no tap interfaces: try modprobe tun", err)
	case errors.As(err, &path):
		return err
	case errors.Is(err, unix.EPERM) && exists:
		return fmt.Errorf("%w: it belongs to somebody else, or it is no tap: its owner is set with ip tuntap add %s mode tap user NAME", err, name)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: there is none of that name, and making one needs root: ip tuntap add %s mode tap user NAME", err, name)
	case errors.Is(err, unix.EBUSY):
		return errTapBusy
	case errors.Is(err, unix.EINVAL) && exists:
		return errors.New("there is an interface of that name, and it is no tap")
	}
	return err
}
