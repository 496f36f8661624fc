package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// helperProgram prints one of the programs that containers of several scripts run: program NAME
func helperProgram(args []string) error {
	if err := usage(args, 1, "program NAME"); err != nil {
		return err
	}
	text, err := scripts.ReadFile("testdata/programs/" + args[0])
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	return err
}

// The server in the scripts about snapshots (testdata/programs/counter.py) answers each line with one.

// asker is a connection to such a server.
type asker struct {
	conn net.Conn
	in   *bufio.Reader
}

func newAsker(address string) (*asker, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	return &asker{c, bufio.NewReader(c)}, nil
}

func (a *asker) ask(question string) (string, error) {
	if err := a.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(a.conn, question+"\n"); err != nil {
		return "", err
	}
	line, err := a.in.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// helperLine asks a server and prints its answers: line ADDRESS QUESTION...
func helperLine(args []string) error {
	if err := usage(args, 2, "line ADDRESS QUESTION..."); err != nil {
		return err
	}
	a, err := newAsker(args[0])
	if err != nil {
		return err
	}
	defer a.conn.Close()
	for _, question := range args[1:] {
		answer, err := a.ask(question)
		if err != nil {
			return err
		}
		fmt.Println(answer)
	}
	return nil
}

// helperStay asks a server the same all the time, on one connection, and prints each answer that differs from the one before. It
// fails if the connection ends without an error, or if there is no answer and no end either: stay ADDRESS QUESTION
func helperStay(args []string) error {
	if err := usage(args, 2, "stay ADDRESS QUESTION"); err != nil {
		return err
	}
	a, err := newAsker(args[0])
	if err != nil {
		return err
	}
	defer a.conn.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; <-tick.C {
		answer, err := a.ask(args[1])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case err != nil:
			fmt.Println("ended:", err)
			return nil
		case answer != last:
			fmt.Println(answer)
		}
		last = answer
	}
}

// clockAsks is how often helperClock asks for the time at most.
const clockAsks = 200

// helperClock fails unless the clock of a server, which answers "time" with it in ns since 1970, is right within so much. What the
// way there and back may hide counts as wrong: clock ADDRESS WITHIN
func helperClock(args []string) error {
	if err := usage(args, 2, "clock ADDRESS WITHIN"); err != nil {
		return err
	}
	within, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	a, err := newAsker(args[0])
	if err != nil {
		return err
	}
	defer a.conn.Close()
	least, most := -patience, patience // by how much it is ahead, as proto.Client.SetClock finds out
	for n := range clockAsks {
		before := time.Now().Round(0)
		answer, err := a.ask("time")
		after := time.Now().Round(0)
		if err != nil {
			return err
		}
		ns, err := strconv.ParseInt(answer, 10, 64)
		if err != nil {
			return err
		}
		now := time.Unix(0, ns)
		least, most = max(least, now.Sub(after)), min(most, now.Sub(before))
		if n > clockAsks/10 && -within <= least && most <= within {
			break
		}
	}
	fmt.Printf("off by %v, give or take %v\n", (least+most)/2, (most-least)/2)
	if least < -within || most > within {
		return fmt.Errorf("that may be more than %v", within)
	}
	return nil
}
