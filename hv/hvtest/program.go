package hvtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/vnet/link"
)

// A Program is what a fake guest runs. It returns when ctx is done, which it is
// when a signal came or the guest was killed; how it ended is then the
// signal's, whatever it returns.
type Program func(ctx context.Context, p *Process) guest.Exit

// A Process is a program's view of its process.
type Process struct {
	guest.Command
	Files [3]*os.File // the standard files; nil is /dev/null. They stay the caller's.
	Guest *Guest
}

// write writes to a standard file, if it is one.
func (p *Process) write(file int, text string) {
	if f := p.Files[file]; f != nil {
		_, _ = io.WriteString(f, text) // a program that can't write goes on
	}
}

// builtin are the programs that the suite runs.
var builtin = map[string]Program{
	"true":  func(context.Context, *Process) guest.Exit { return guest.Exit{} },
	"false": func(context.Context, *Process) guest.Exit { return guest.Exit{Code: 1} },
	"sleep": sleep,
	"cat":   cat,
	"sh":    shell,
}

// sleep sleeps until a signal comes.
func sleep(ctx context.Context, _ *Process) guest.Exit {
	<-ctx.Done()
	return guest.Exit{}
}

// cat copies its input to its output.
func cat(_ context.Context, p *Process) guest.Exit {
	if p.Files[0] != nil && p.Files[1] != nil {
		_, _ = io.Copy(p.Files[1], p.Files[0])
	}
	return guest.Exit{}
}

// shell runs "sh -c LINE", a list, separated by semicolons, of: exit N,
// kill -N $$, echo TEXT, and echo TEXT >&2, where TEXT may be $PWD or $NAME.
func shell(_ context.Context, p *Process) guest.Exit {
	for _, part := range strings.Split(p.Args[2], ";") {
		word := strings.Fields(part)
		switch word[0] {
		case "exit":
			code, _ := strconv.Atoi(word[1])
			return guest.Exit{Code: code}
		case "kill":
			signal, _ := strconv.Atoi(strings.TrimPrefix(word[1], "-"))
			return guest.Exit{Code: -1, Signal: signal}
		case "echo":
			file := 1
			if word[len(word)-1] == ">&2" {
				file, word = 2, word[:len(word)-1]
			}
			p.write(file, p.expand(strings.Join(word[1:], " "))+"\n")
		}
	}
	return guest.Exit{}
}

// expand replaces $PWD and the variables of the environment.
func (p *Process) expand(text string) string {
	return os.Expand(text, func(name string) string {
		if name == "PWD" {
			return p.Dir
		}
		for _, e := range p.Env {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value
			}
		}
		return ""
	})
}

// A machine is a guest as the agent's system.
type machine struct{ *Guest }

var _ guest.System = machine{}

// Boot remembers b, and sends a frame as a card does that comes up.
func (m machine) Boot(b guest.Bootstrap) error {
	if m.fake.BootError != nil {
		return m.fake.BootError
	}
	m.mu.Lock()
	m.boot = &b
	m.mu.Unlock()
	if m.card == nil || b.Network == nil {
		return nil
	}
	return m.announce()
}

// announce sends a gratuitous ARP request for 0.0.0.0: a frame that says
// nothing but where it comes from.
func (m machine) announce() error {
	mac := m.cfg.NIC.MAC
	if len(mac) == 0 {
		mac = []byte{2, 0, 0, 0, 0, 1}
	}
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(frame, mac...)
	frame = append(frame, make([]byte, 4+6+4)...)
	_, err := m.card.WriteFrames([]link.Frame{{Data: frame}})
	return err
}

// Configure remembers n.
func (m machine) Configure(n guest.Network) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.networks = append(m.networks, n)
	return nil
}

// Start starts a Program.
func (m machine) Start(c guest.Command) (guest.Process, error) {
	program := m.fake.Programs[c.Args[0]]
	if program == nil {
		program = builtin[c.Args[0]]
	}
	switch {
	case c.Args[0] == "/":
		return nil, &guest.StartError{Code: guest.CodeNotExecutable, Message: "/: is a directory"}
	case program == nil:
		return nil, &guest.StartError{Code: guest.CodeNotFound, Message: c.Args[0] + ": not found"}
	}
	p := &running{exited: make(chan guest.Exit, 1)}
	p.ctx, p.cancel = context.WithCancelCause(m.ctx)
	go p.run(program, &Process{Command: c, Files: m.cfg.Stdio, Guest: m.Guest})
	return p, nil
}

// running is a Program that runs.
type running struct {
	ctx    context.Context // done when the program is to end
	cancel context.CancelCauseFunc
	exited chan guest.Exit // gets the exit, from run
}

// signalled is the cause of a program's end by a signal.
type signalled int

func (s signalled) Error() string { return fmt.Sprintf("signal %d", int(s)) }

// run runs the program.
func (p *running) run(program Program, process *Process) {
	exit := program(p.ctx, process)
	if s, ok := context.Cause(p.ctx).(signalled); ok {
		exit = guest.Exit{Code: -1, Signal: int(s)}
	}
	p.cancel(nil)
	p.exited <- exit
}

// Signal ends the program.
func (p *running) Signal(n int) error {
	if p.ctx.Err() != nil {
		return os.ErrProcessDone
	}
	p.cancel(signalled(n))
	return nil
}

// Wait waits for the program's end.
func (p *running) Wait() guest.Exit { return <-p.exited }
