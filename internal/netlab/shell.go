package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Shell is a running sh that takes commands from us: in a sandbox, in a peer's
// namespace, or here. One goroutine may use it at a time.
type Shell struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr lockedBuffer
}

// StartShell starts a program that ends up in a sh which reads its commands from
// standard input, for example "sh" itself, and waits for it. The end of ctx kills
// the program.
func StartShell(ctx context.Context, argv ...string) (*Shell, error) {
	s := &Shell{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...)}
	s.cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipes
	s.cmd.Stderr = &s.stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.stdin, s.stdout = stdin, bufio.NewReader(stdout)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if _, _, err := s.Run("true"); err != nil {
		return nil, errors.Join(fmt.Errorf("%q gives no shell: %w\n%s", argv, err, s.Stderr()), s.Close())
	}
	return s, nil
}

// PID returns the id of the program's process.
func (s *Shell) PID() int { return s.cmd.Process.Pid }

// endOfCommand precedes a command's exit code, on a line of its own.
const endOfCommand = "netlab: exit "

// Run runs a command line of sh and returns what it wrote to standard output,
// without white space at its ends, and its exit code. The error says that there is
// no shell any more.
func (s *Shell) Run(line string) (out string, code int, err error) {
	if _, err := fmt.Fprintf(s.stdin, "( %s\n) </dev/null; code=$?; echo; echo '%s'$code\n", line, endOfCommand); err != nil {
		return "", 0, err
	}
	var b strings.Builder
	for {
		l, err := s.stdout.ReadString('\n')
		if err != nil {
			return b.String(), 0, fmt.Errorf("%s: the shell ended: %w", line, err)
		}
		if end, ok := strings.CutPrefix(l, endOfCommand); ok {
			code, err := strconv.Atoi(strings.TrimSpace(end))
			return strings.TrimSpace(b.String()), code, err
		}
		b.WriteString(l)
	}
}

// Stderr returns what the program and its commands wrote to standard error until
// now.
func (s *Shell) Stderr() string { return s.stderr.String() }

// Close lets the shell end, waits for the program and returns its error, unless
// that is the exit code of the shell's last command.
func (s *Shell) Close() error {
	s.stdin.Close() // sh ends at the end of its commands
	err := s.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		return nil
	}
	return err
}

// A lockedBuffer is written by os/exec's goroutine and read by us.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
