package hvtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/sftp"

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
	PID   int
	Files [3]*os.File // the standard files; nil is /dev/null. They stay the caller's.
	Guest *Guest

	mu         sync.Mutex // guards the following fields
	rows, cols uint16
}

// Size returns the size of the terminal.
func (p *Process) Size() (rows, cols uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rows, p.cols
}

// write writes to a standard file, if it is one. A terminal returns the carriage.
func (p *Process) write(file int, text string) {
	if p.TTY != nil {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if f := p.Files[file]; f != nil {
		_, _ = io.WriteString(f, text) // a program that can't write goes on
	}
}

// readLine reads a line of the standard input, byte by byte as a shell does.
func (p *Process) readLine() {
	one := make([]byte, 1)
	for p.Files[0] != nil {
		if n, err := p.Files[0].Read(one); err != nil || n == 1 && one[0] == '\n' {
			return
		}
	}
}

// builtin are the programs that the suite runs.
var builtin = map[string]Program{
	"true":  func(context.Context, *Process) guest.Exit { return guest.Exit{} },
	"false": func(context.Context, *Process) guest.Exit { return guest.Exit{Code: 1} },
	"sleep": sleep,
	"cat":   cat,
	"sh":    shell,
	"stty":  size,
}

// size is "stty size".
func size(_ context.Context, p *Process) guest.Exit {
	rows, cols := p.Size()
	p.write(1, fmt.Sprintf("%d %d\n", rows, cols))
	return guest.Exit{}
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
// kill -N $$, sleep, stty size, read NAME, echo TEXT, and echo TEXT >&2, where
// TEXT may be $PWD or $NAME.
func shell(ctx context.Context, p *Process) guest.Exit {
	for _, part := range strings.Split(p.Args[2], ";") {
		word := strings.Fields(part)
		switch word[0] {
		case "sleep":
			<-ctx.Done()
		case "stty":
			size(ctx, p)
		case "read":
			p.readLine()
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
		for _, e := range slices.Backward(p.Env) { // the last counts
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
func (m machine) Boot(b guest.Bootstrap) ([]string, error) {
	if m.fake.BootError != nil {
		return nil, m.fake.BootError
	}
	m.mu.Lock()
	m.boot = &b
	m.mu.Unlock()
	if m.card == nil || b.Network == nil {
		return nil, nil
	}
	return nil, m.announce()
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

// SetClock remembers t.
func (m machine) SetClock(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clocks = append(m.clocks, t)
	return nil
}

// ServeFiles serves files in memory.
func (m machine) ServeFiles(stream io.ReadWriteCloser) error {
	return sftp.NewRequestServer(stream, m.files).Serve()
}

// Dial connects to what Listen was called for.
func (m machine) Dial(_ context.Context, _, address string) (net.Conn, error) {
	m.mu.Lock()
	serve := m.dials[address]
	m.mu.Unlock()
	if serve == nil {
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := net.Pipe()
	m.running.Go(func() { serve(theirs) })
	return ours, nil
}

// Shutdown signals every program, and kills those that are left.
func (m machine) Shutdown(grace time.Duration) {
	done := make(chan struct{})
	go func() { m.running.Wait(); close(done) }()
	m.signalAll(signalled(15))
	select {
	case <-done:
	case <-time.After(grace):
	}
}

// Start starts a Program.
func (m machine) Start(c guest.Command) (guest.Child, error) {
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
	p := &running{exited: make(chan struct{}), process: &Process{Command: c, Guest: m.Guest}}
	if err := p.open(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.pids++
	p.process.PID = 1 + m.pids
	for name, value := range m.boot.Env {
		p.process.Env = append([]string{name + "=" + value}, p.process.Env...)
	}
	m.mu.Unlock()
	p.ctx, p.cancel = context.WithCancelCause(m.programs)
	m.running.Go(func() { p.run(program) })
	return p, nil
}

// running is a Program that runs.
type running struct {
	process *Process
	stdin   *os.File        // the other ends of the process's files; nil without
	outputs [2]*os.File     // likewise
	ctx     context.Context // done when the program is to end
	cancel  context.CancelCauseFunc
	exited  chan struct{} // closed when exit is valid
	exit    guest.Exit
}

// open opens the process's files. A terminal is a pipe each way, and a size.
func (p *running) open() error {
	c := p.process.Command
	if c.Inherit {
		p.process.Files = p.process.Guest.cfg.Stdio
		return nil
	}
	if c.TTY != nil {
		p.process.rows, p.process.cols = c.TTY.Rows, c.TTY.Cols
	}
	if c.TTY != nil || c.Stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		p.process.Files[0], p.stdin = r, w
	}
	for i := range p.outputs {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		p.process.Files[1+i], p.outputs[i] = w, r
	}
	return nil
}

// signalled is the cause of a program's end by a signal.
type signalled int

func (s signalled) Error() string { return fmt.Sprintf("signal %d", int(s)) }

// run runs the program.
func (p *running) run(program Program) {
	files := p.process.Files
	// A program that reads doesn't look at its context; a signal ends it all the
	// same.
	stop := context.AfterFunc(p.ctx, func() {
		if p.stdin != nil {
			p.stdin.Close()
		}
	})
	exit := program(p.ctx, p.process)
	stop()
	if s, ok := context.Cause(p.ctx).(signalled); ok {
		exit = guest.Exit{Code: -1, Signal: int(s)}
	}
	p.cancel(nil)
	if !p.process.Inherit {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}
	p.exit = exit
	close(p.exited)
}

// PID returns the process's number.
func (p *running) PID() int { return p.process.PID }

// Stdin returns the way to the standard input. See guest.Child.
func (p *running) Stdin() io.WriteCloser {
	if p.stdin == nil {
		return nil
	}
	return p.stdin
}

// Stdout returns what the program writes. See guest.Child.
func (p *running) Stdout() io.Reader {
	if p.outputs[0] == nil {
		return nil
	}
	return p.outputs[0]
}

// Stderr returns what the program complains of. See guest.Child.
func (p *running) Stderr() io.Reader {
	if p.outputs[1] == nil {
		return nil
	}
	return p.outputs[1]
}

// Signal ends the program.
func (p *running) Signal(n int) error {
	if p.ctx.Err() != nil {
		return os.ErrProcessDone
	}
	p.cancel(signalled(n))
	return nil
}

// Resize changes what Size returns.
func (p *running) Resize(rows, cols uint16) error {
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	p.process.rows, p.process.cols = rows, cols
	return nil
}

// Wait waits for the program's end.
func (p *running) Wait() guest.Exit {
	<-p.exited
	return p.exit
}

// Close frees the other ends of the files.
func (p *running) Close() {
	for _, f := range []*os.File{p.stdin, p.outputs[0], p.outputs[1]} {
		if f != nil {
			f.Close()
		}
	}
}
