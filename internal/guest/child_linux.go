package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A child is a command that the machine started.
type child struct {
	*process
	stdin  io.WriteCloser // nil without
	stdout *tail          // nil without
	stderr *tail          // nil without
	tty    *os.File       // the terminal's other end, which is stdin and stdout too; nil without
}

var _ Child = (*child)(nil)

// files are a command's standard files, and the other ends of those that are
// new.
type files struct {
	child          [3]*os.File // never nil
	opened         []*os.File  // those of child that are to be closed when it has them
	stdin          *os.File
	stdout, stderr *os.File
	tty            *os.File
}

// openFiles opens the standard files of c, whose process will be who's.
func openFiles(c Command, who identity) (*files, error) {
	f := new(files)
	if err := f.open(c, who); err != nil {
		f.closeChild()
		f.closeOther()
		return nil, fmt.Errorf("open standard files: %w", err)
	}
	return f, nil
}

func (f *files) open(c Command, who identity) error {
	if c.Inherit {
		f.child = [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
		return nil
	}
	if c.TTY != nil {
		master, slave, err := openTerminal(c.TTY, who)
		if err != nil {
			return err
		}
		f.child = [3]*os.File{slave, slave, slave}
		f.opened = []*os.File{slave}
		f.tty = master
		return nil
	}
	if c.Stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		f.child[0], f.stdin = r, w
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		f.child[0] = null
	}
	f.opened = append(f.opened, f.child[0])
	for i, other := range []**os.File{&f.stdout, &f.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		f.child[1+i], *other = w, r
		f.opened = append(f.opened, w)
		// A user who isn't root opens /dev/stdout by its path.
		if !who.inherited {
			if err := w.Chown(int(who.uid), int(who.gid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// closeChild closes the command's ends.
func (f *files) closeChild() {
	for _, file := range f.opened {
		file.Close()
	}
}

// closeOther closes the other ends.
func (f *files) closeOther() {
	for _, file := range []*os.File{f.stdin, f.stdout, f.stderr, f.tty} {
		if file != nil {
			file.Close()
		}
	}
}

// attributes returns how c is started by who: as the leader of a session of its
// own, so that signals reach all that it starts, and with its terminal as the
// controlling one; with the agent's files it has none, and no way to push bytes
// into a terminal of the host's that they may be.
func (f *files) attributes(c Command, who identity) *syscall.ProcAttr {
	attr := &syscall.ProcAttr{Dir: c.dir(), Env: c.Env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: c.TTY != nil}}
	for _, file := range f.child {
		attr.Files = append(attr.Files, file.Fd()) // and makes it blocking, as programs expect
	}
	if !who.inherited {
		attr.Sys.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}
	}
	return attr
}

// newChild returns the command that p is, and owns the other ends of f.
func newChild(p *process, f *files) *child {
	c := &child{process: p, tty: f.tty}
	switch {
	case f.tty != nil:
		c.stdin, c.stdout = typed{f.tty}, newTail(f.tty, p.done)
		return c
	case f.stdin != nil:
		c.stdin = f.stdin
	}
	if f.stdout != nil {
		c.stdout = newTail(f.stdout, p.done)
		c.stderr = newTail(f.stderr, p.done)
	}
	return c
}

// PID returns the process's number.
func (c *child) PID() int { return c.pid }

// Stdin returns the way to the standard input. See Child.
func (c *child) Stdin() io.WriteCloser { return c.stdin }

// Stdout returns what is written to the standard output. See Child.
func (c *child) Stdout() io.Reader {
	if c.stdout == nil {
		return nil // not an io.Reader that holds a nil pointer
	}
	return c.stdout
}

// Stderr returns what is written to the standard error. See Child.
func (c *child) Stderr() io.Reader {
	if c.stderr == nil {
		return nil
	}
	return c.stderr
}

// Resize tells the terminal its size. See Child.
func (c *child) Resize(rows, cols uint16) error {
	if c.tty == nil {
		return nil
	}
	return resizeTerminal(c.tty, rows, cols)
}

// Close frees the streams. See Child.
func (c *child) Close() {
	if c.stdin != nil && c.tty == nil {
		c.stdin.Close()
	}
	for _, t := range []*tail{c.stdout, c.stderr} {
		if t != nil {
			t.abandon()
		}
	}
}

// lingerAfterExit is how long a command's streams stay open after its end for
// what its own children still write: tee(1) at the end of a script, but not a
// server that was left in the background.
const lingerAfterExit = 250 * time.Millisecond

// A tail reads what a command writes, until all who can have closed it, or the
// command has ended, lingerAfterExit has passed and what is there was read.
type tail struct {
	file  *os.File // a pipe, or a terminal's other end
	left  int      // bytes to read still; negative while that isn't known
	ended bool     // nobody can write any more
}

// newTail returns a tail of file, and owns it. exited is closed when the command
// has ended.
func newTail(file *os.File, exited <-chan struct{}) *tail {
	go func() { // waits for a process, and is never in anybody's way
		<-exited
		_ = file.SetReadDeadline(time.Now().Add(lingerAfterExit)) // an error where it is closed
	}()
	return &tail{file: file, left: -1}
}

// Read reads what the command wrote.
func (t *tail) Read(p []byte) (int, error) {
	for {
		if t.left == 0 || t.ended {
			return 0, io.EOF
		}
		if t.left > 0 {
			p = p[:min(len(p), t.left)]
		}
		n, err := t.file.Read(p)
		if t.left > 0 {
			t.left -= n
		}
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.left = unread(t.file)
			_ = t.file.SetReadDeadline(time.Time{})
		case err == io.EOF, errors.Is(err, unix.EIO): // EIO is a terminal's end
			t.ended = true
		case err != nil:
			return 0, err
		}
	}
}

// unread returns how many bytes can be read from file at once.
func unread(file *os.File) int {
	n := 0
	raw, err := file.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			if got, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
				n = got
			}
		})
	}
	return n
}

// abandon closes the tail. What the command's children still write is thrown
// away, so that they don't die of having written it.
func (t *tail) abandon() {
	if t.ended {
		t.file.Close()
		return
	}
	go t.discard()
}

// discard reads until nobody can write any more: it ends with the command's
// children.
func (t *tail) discard() {
	for {
		_ = t.file.SetReadDeadline(time.Time{}) // which newTail may set once more
		if _, err := io.Copy(io.Discard, t.file); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.file.Close()
			return
		}
	}
}
