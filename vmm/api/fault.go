package api

import (
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// fault is a request that was refused: an HTTP status, and the sentence that clients get as fault_message.
type fault struct {
	status  int
	message string
}

func (f *fault) Error() string { return f.message }

// refuse is a fault with the status 400 Bad Request.
func refuse(format string, args ...any) error {
	return &fault{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// Faults that have no details.
var (
	errPostBoot = refuse("The requested operation is not supported after starting the microVM.")
	errPreBoot  = refuse("The requested operation is not supported before starting the microVM.")
	errEmptyID  = refuse("The ID cannot be empty.")
	errBadID    = refuse("API Resource IDs can only contain alphanumeric characters and underscores.")
	errOtherID  = refuse("The id from the path does not match the id from the body!")
)

// notOffered refuses what the API describes and hull does not have.
func notOffered(what string) error {
	return refuse("The requested operation is not supported: this is hull, which has no %s.", what)
}

// asFault makes any error one that has a status.
func asFault(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	var j *jsonError
	if errors.As(err, &j) {
		return &fault{http.StatusBadRequest, fmt.Sprintf("An error occurred when deserializing the json body of a request: %v.", j)}
	}
	return &fault{http.StatusBadRequest, err.Error()}
}

// osError words an error of the operating system as clients know it: "No such file or directory (os error 2)".
func osError(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	first, size := utf8.DecodeRuneInString(text)
	return fmt.Sprintf("%c%s (os error %d)", unicode.ToUpper(first), text[size:], int(errno))
}

// checkID says why id cannot name a device.
func checkID(id string) error {
	if id == "" {
		return errEmptyID
	}
	for _, r := range id {
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) {
			return errBadID
		}
	}
	return nil
}

// maxInstanceID is the longest ID of a machine.
const maxInstanceID = 64

// CheckInstanceID says why id cannot be a machine's.
func CheckInstanceID(id string) error {
	if id == "" || len(id) > maxInstanceID {
		return fmt.Errorf("invalid len (%d); the length must be between 1 and %d", len(id), maxInstanceID)
	}
	for i, r := range id {
		if r != '-' && !(r >= '0' && r <= '9') && !(r >= 'a' && r <= 'z') && !(r >= 'A' && r <= 'Z') {
			return fmt.Errorf("invalid char (%c) at position %d", r, i)
		}
	}
	return nil
}
