package engine

import "io"

// escapeKey begins a command at the terminal of a bare VM: Ctrl-A, as with QEMU.
const escapeKey = 'A' & 0x1f

const escapeHelp = "Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends a Ctrl-A, Ctrl-A h shows this help"

// escapes finds commands in what is typed. The zero value is ready.
type escapes struct {
	pending bool // the last byte was an escapeKey
}

// filter returns what of the typed bytes is for the guest, and which commands
// were given: x for the end, after which nothing counts, h for help.
func (e *escapes) filter(typed []byte) (forGuest []byte, quit, help bool) {
	for _, b := range typed {
		if !e.pending {
			if e.pending = b == escapeKey; !e.pending {
				forGuest = append(forGuest, b)
			}
			continue
		}
		e.pending = false
		switch b {
		case 'x', 'X':
			return forGuest, true, help
		case 'h', 'H', '?':
			help = true
		case escapeKey:
			forGuest = append(forGuest, escapeKey)
		default: // no command: meant for the guest all along
			forGuest = append(forGuest, escapeKey, b)
		}
	}
	return forGuest, false, help
}

// copyConsole passes what is typed on until its end, and tells whether that was
// the command to end the VM.
func copyConsole(guest io.Writer, in io.Reader, note func(string)) (quit bool) {
	var e escapes
	buf := make([]byte, 4096)
	for {
		n, err := in.Read(buf)
		forGuest, quit, help := e.filter(buf[:n])
		if help {
			note(escapeHelp)
		}
		if quit {
			return true
		}
		if len(forGuest) > 0 {
			if _, err := guest.Write(forGuest); err != nil {
				return false // the VM is gone
			}
		}
		if err != nil {
			return false
		}
	}
}
