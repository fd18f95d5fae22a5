package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A shell is a running sh that takes commands from us, in a guest or not.
type shell struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// startShell starts a program that ends up in a sh which reads its commands from
// standard input. ctx kills it.
func startShell(ctx context.Context, argv ...string) (*shell, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipes
	var messages strings.Builder
	cmd.Stderr = &messages
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &shell{cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	if _, err := s.run("true"); err != nil {
		return nil, errors.Join(fmt.Errorf("%q gives no shell: %w\n%s", argv, err, messages.String()), s.close())
	}
	return s, nil
}

// endOfCommand precedes a command's exit code on a line of its own.
const endOfCommand = "bench: exit "

// commandPatience bounds every command: a peer that loses a connection must not stop
// the others' measurement. Measurements are shorter by far.
const commandPatience = 30 * time.Second

// run runs a program with arguments, quoted for sh, and returns what it wrote.
func (s *shell) run(line string) (string, error) {
	if _, err := fmt.Fprintf(s.stdin, "timeout %.0f %s </dev/null; code=$?; echo; echo '%s'$code\n", commandPatience.Seconds(), line, endOfCommand); err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		l, err := s.stdout.ReadString('\n')
		if err != nil {
			return out.String(), fmt.Errorf("%s: the shell ended: %w", line, err)
		}
		if code, ok := strings.CutPrefix(l, endOfCommand); ok {
			if code != "0\n" {
				return out.String(), fmt.Errorf("%s: exit code %s%s", line, code, out.String())
			}
			return strings.TrimSpace(out.String()), nil
		}
		out.WriteString(l)
	}
}

// close ends the shell, and the guest with it.
func (s *shell) close() error {
	s.stdin.Close() // sh ends at the end of its commands
	err := s.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() != syscall.SIGKILL {
			return err
		}
		return nil // of the last command, or killed by us
	}
	return err
}
