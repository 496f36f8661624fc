package jail

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is what becomes of a system call. It is let through if one of its alternatives holds, or if it has none.
type call struct {
	nr   uint32
	any  []tests
	deny uint32 // errno that is returned otherwise; 0: what the filter does to calls that it does not list
	// never has the call denied whatever its arguments are: deny says how.
	never bool
}

// tests must all hold.
type tests []test

// test compares bits of half of an argument.
type test struct {
	arg         int // 0 to 5
	high        bool
	mask, value uint32
}

// equal tests the low half of an argument, which is all that the kernel looks at where an argument is an int.
func equal(arg int, value uint32) test { return test{arg: arg, mask: ^uint32(0), value: value} }

// without tests that none of these bits are set.
func without(arg int, bits uint32) test { return test{arg: arg, mask: bits} }

// oneOf has an alternative for each value of an argument.
func oneOf(arg int, values ...uint32) (list []tests) {
	for _, v := range values {
		list = append(list, tests{equal(arg, v)})
	}
	return list
}

// struct seccomp_data
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

// x32 is the bit in the numbers of calls of the x32 ABI, which has the same architecture.
const x32 = 0x40000000

const (
	opLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opLess  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K // with its branches swapped
	opRet   = unix.BPF_RET | unix.BPF_K
)

// assemble makes a filter that looks for the call in the order of the list; the first entry of a number counts. deny is
// what becomes of calls that are not in it.
func assemble(calls []call, deny uint32) []unix.SockFilter {
	ret := func(action uint32) unix.SockFilter { return unix.SockFilter{Code: opRet, K: action} }
	load := func(offset uint32) unix.SockFilter { return unix.SockFilter{Code: opLoad, K: offset} }
	program := []unix.SockFilter{
		load(dataArch),
		{Code: opEqual, K: unix.AUDIT_ARCH_X86_64, Jt: 1},
		ret(deny),
		load(dataNr),
		{Code: opLess, K: x32, Jf: 1},
		ret(deny),
	}
	seen := make(map[uint32]bool)
	for _, c := range calls {
		if seen[c.nr] {
			continue
		}
		seen[c.nr] = true
		body := c.body(ret, load, deny)
		// A conditional jump reaches 255 instructions: the way past a long body is a jump of the other kind.
		program = append(program, unix.SockFilter{Code: opEqual, K: c.nr, Jt: 1},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(body))})
		program = append(program, body...)
	}
	return append(program, ret(deny))
}

// body decides about a call by its arguments. It always ends in a decision.
func (c *call) body(ret, load func(uint32) unix.SockFilter, deny uint32) (body []unix.SockFilter) {
	if c.deny != 0 {
		deny = unix.SECCOMP_RET_ERRNO | c.deny
	}
	switch {
	case c.never:
		return append(body, ret(deny))
	case len(c.any) == 0:
		return append(body, ret(unix.SECCOMP_RET_ALLOW))
	}
	for _, all := range c.any {
		var alternative []unix.SockFilter
		for _, t := range all {
			offset := uint32(dataArgs + 8*t.arg)
			if t.high {
				offset += 4
			}
			alternative = append(alternative, load(offset))
			if t.mask != ^uint32(0) {
				alternative = append(alternative, unix.SockFilter{Code: opAnd, K: t.mask})
			}
			alternative = append(alternative, unix.SockFilter{Code: opEqual, K: t.value}) // Jf: below
		}
		alternative = append(alternative, ret(unix.SECCOMP_RET_ALLOW))
		for i := range alternative {
			if alternative[i].Code == opEqual {
				alternative[i].Jf = uint8(len(alternative) - 1 - i)
			}
		}
		body = append(body, alternative...)
	}
	return append(body, ret(deny))
}

// install puts a filter into force on all threads. no_new_privs must be set. A kernel without filters is left alone.
func install(program []unix.SockFilter) error {
	if !hasSeccomp() {
		return nil
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(program)
	switch {
	case errno != 0:
		return fmt.Errorf("loading a filter of %d instructions: %w", len(program), errno)
	case thread != 0:
		return fmt.Errorf("thread %d cannot be made to keep to the filter", thread)
	}
	return nil
}

// hasSeccomp tells whether the kernel has filters that end a process, for all threads at once (Linux 4.14).
func hasSeccomp() bool {
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	return errno == 0
}

var errNoSeccomp = errors.New("this kernel has no system call filters (CONFIG_SECCOMP_FILTER, Linux 4.14)")
