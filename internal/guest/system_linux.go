package guest

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// NewSystem returns the machine whose process 1 is the calling process, or,
// anywhere else, the process's own namespaces. There is to be one in a
// process: it reaps every child.
//
// prepare, unless nil, runs once on the thread that starts every command. What
// it changes of that thread (capabilities, keyrings) the commands inherit and
// the agent's other threads don't.
func NewSystem(prepare func() error) (System, error) {
	r, err := newReaper(prepare)
	if err != nil {
		return nil, fmt.Errorf("prepare to start commands: %w", err)
	}
	return &machine{reaper: r}, nil
}

// A machine is the kernel that the agent runs on.
type machine struct {
	reaper *reaper
}

var _ System = (*machine)(nil)

// Boot names the guest, writes the resolver's files and sets up the network.
func (m *machine) Boot(b Bootstrap) error {
	if b.Hostname != "" {
		if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", b.Hostname, err)
		}
	}
	if err := writeFiles("", b.Hostname, b.Network); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if b.Network == nil {
		return nil
	}
	return configure(*b.Network)
}

// Configure changes the network.
func (m *machine) Configure(n Network) error { return configure(n) }

// Start starts a command with the agent's own standard files.
func (m *machine) Start(c Command) (Process, error) {
	path, err := lookPath(c)
	if err != nil {
		return nil, err
	}
	p, err := m.reaper.start(path, c)
	var errno unix.Errno
	switch {
	case err == nil:
		return p, nil
	case errors.As(err, &errno) && errno == unix.ENOENT:
		// The program is there, or lookPath had said so: its interpreter isn't.
		return nil, &StartError{Code: CodeNotFound, Message: path + ": its interpreter does not exist"}
	}
	return nil, &StartError{Code: CodeNotExecutable, Message: path + ": " + err.Error()}
}
