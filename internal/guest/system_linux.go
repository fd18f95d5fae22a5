package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// NewSystem returns the machine whose process 1 is the calling process, or,
// anywhere else, the process's own namespaces. There is to be one in a
// process: it reaps every child.
//
// prepare, unless nil, runs once on the thread that starts every command. What
// it changes of that thread (capabilities, keyrings) the commands inherit and
// the agent's other threads don't.
func NewSystem(prepare func() error) (System, error) { return NewBoundedSystem(prepare, 0) }

// NewBoundedSystem is NewSystem for a guest whose processes and threads, of each user,
// are at most so many; 0 is no bound. It is RLIMIT_NPROC's, which Linux counts within
// a user namespace since 5.14. The agent itself has some more than its commands, so
// that it can still end what has taken all of them.
func NewBoundedSystem(prepare func() error, processes uint64) (System, error) {
	bound, err := newProcessBound(processes)
	if err != nil {
		return nil, fmt.Errorf("bound processes: %w", err)
	}
	r, err := newReaper(prepare, bound)
	if err != nil {
		return nil, fmt.Errorf("prepare to start commands: %w", err)
	}
	return &machine{reaper: r}, nil
}

// A machine is the kernel that the agent runs on.
type machine struct {
	reaper *reaper

	mu  sync.Mutex        // guards the following field
	env map[string]string // of every command; immutable once set
}

var _ System = (*machine)(nil)

// Boot names the guest, writes the resolver's files, sets the clock and sets up
// the network. See System.
func (m *machine) Boot(b Bootstrap) ([]string, error) {
	if b.Hostname != "" {
		if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
			return nil, fmt.Errorf("set host name %q: %w", b.Hostname, err)
		}
	}
	if err := writeFiles("", b.Hostname, b.Network); err != nil {
		return nil, err
	}
	if !b.Time.IsZero() {
		if err := m.SetClock(b.Time); err != nil {
			return nil, err
		}
	}
	env, warnings, err := installTrust("", b.CA, b.Env)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.env = env
	m.mu.Unlock()
	if err := loopbackUp(); err != nil {
		return warnings, err
	}
	if b.Network == nil {
		return warnings, nil
	}
	return warnings, configure(*b.Network)
}

// Configure changes the network. See System.
func (m *machine) Configure(n Network) error { return configure(n) }

// SetClock sets the clock. See System. Where the kernel says that it isn't the
// guest's to set, it is the host's, who is right by definition.
func (m *machine) SetClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// Start starts a command. See System.
func (m *machine) Start(c Command) (Child, error) {
	who, err := identify("", c.User)
	if err != nil {
		return nil, &StartError{Code: CodeRefused, Message: err.Error()}
	}
	m.mu.Lock()
	env := m.env
	m.mu.Unlock()
	c.Env = environment(c, env, who)
	path, err := lookPath(c)
	if err != nil {
		return nil, err
	}
	f, err := openFiles(c, who)
	if err != nil {
		failed := startError(path, c, err)
		failed.Code = CodeRefused // whatever it is, the program isn't to blame
		return nil, failed
	}
	p, err := m.reaper.start(path, c.Args, f.attributes(c, who))
	f.closeChild()
	if err != nil {
		f.closeOther()
		return nil, startError(path, c, err)
	}
	return newChild(p, f), nil
}

// startError returns why the kernel didn't start c, whose program is at path.
func startError(path string, c Command, err error) *StartError {
	switch {
	case errors.Is(err, unix.ENOENT):
		// The program is there, or lookPath had said so: its interpreter isn't.
		return &StartError{Code: CodeNotFound, Message: path + ": its interpreter does not exist"}
	case errors.Is(err, unix.EACCES) && c.dir() != "/":
		// The kernel doesn't say which of the two it was.
		return &StartError{Code: CodeNotExecutable, Message: path + ": permission denied, to it or to " + c.dir() + ", where it is to run"}
	case errors.Is(err, unix.EINVAL) && c.User != "", errors.Is(err, unix.EPERM) && c.User != "":
		return &StartError{Code: CodeRefused, Message: fmt.Sprintf("become user %q: the guest has no such user id, or only one: %v", c.User, err)}
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return &StartError{Code: CodeRefused, Message: path + ": " + err.Error()}
	}
	return &StartError{Code: CodeNotExecutable, Message: path + ": " + err.Error()}
}

// ServeFiles serves the guest's files. See System.
func (m *machine) ServeFiles(stream io.ReadWriteCloser) error {
	// Without a working directory of the server's own, to which it would make the
	// targets of relative links relative: the process's is the root.
	s, err := sftp.NewServer(stream)
	if err != nil {
		return err
	}
	return s.Serve()
}

// Dial connects to an address. See System.
func (m *machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// Shutdown ends every process. See System.
func (m *machine) Shutdown(grace time.Duration) { m.reaper.shutdown(grace) }
