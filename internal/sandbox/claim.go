package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A claim is the right to a sandbox's name, and the directory that goes with
// it. It is not for concurrent use.
type claim struct {
	dir    string
	socket string
	lock   *os.File // nil after release
	state  Found    // as last written
	before *Found   // of a sandbox that is started again: what it was; nil otherwise
}

// The files of a sandbox's directory.
const (
	lockName   = "lock"
	stateName  = "state.json"
	eventsName = "events.jsonl"
	logName    = "log"
)

// errKept is matched by the error of claimName if a sandbox of that name has
// ended and its directory is to stay.
var errKept = errors.New("sandbox is kept")

// errNone is matched by the error of claimName if there is nothing to start
// again.
var errNone = errors.New("no such sandbox")

// claimName claims st.Name and makes its directory anew; with again it takes
// over the directory of a sandbox that was kept. The error matches errHeld if a
// running sandbox has that name. The caller must have checked that the name
// can't lead out of the directory.
func (d Dirs) claimName(st Found, again bool) (*claim, error) {
	c := &claim{dir: d.dir(st.Name), socket: d.socket(st.Name)}
	if err := c.acquire(); err != nil {
		return nil, err
	}
	if err := c.begin(st, again); err != nil {
		if !errors.Is(err, errKept) {
			return nil, errors.Join(err, c.remove())
		}
		return nil, errors.Join(err, c.unlock())
	}
	return c, nil
}

// sweepTime is how long whoever looks for what dead sandboxes left may hold the
// lock of one.
const sweepTime = 100 * time.Millisecond

// acquire locks the directory. Somebody who sweeps may hold it for a moment, and
// has none of a running sandbox's state.
func (c *claim) acquire() error {
	timeout := time.NewTimer(sweepTime)
	defer timeout.Stop()
	for {
		var err error
		if c.lock, err = lockIn(c.dir); !errors.Is(err, errHeld) {
			return err
		}
		if st, stateErr := readState(c.dir); stateErr == nil && st.Running() {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-timeout.C:
			return err
		}
	}
}

// lockIn locks the directory dir, creating it if need be; its parent is there.
func lockIn(dir string) (*os.File, error) {
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("create state directory: %w", err)
		}
		f, err := lockFile(filepath.Join(dir, lockName))
		if errors.Is(err, os.ErrNotExist) {
			continue // a dead sandbox's directory was being removed
		}
		return f, err
	}
}

// begin removes what a dead sandbox of the same name left, unless it is to be
// kept, and writes who we are.
func (c *claim) begin(st Found, again bool) error {
	old, err := readState(c.dir)
	kept := err == nil && old.Keep
	switch {
	case kept && !again:
		return errKept
	case !kept && again:
		return errNone
	case kept:
		old.settle()
		c.before, st.Created = &old, old.Created
		for _, name := range []string{eventsName} { // the log goes on
			if err := removed(os.Rename(c.path(name), c.path(name+".1"))); err != nil {
				return fmt.Errorf("keep earlier events: %w", err)
			}
		}
	default:
		if err := c.clear(); err != nil {
			return err
		}
	}
	st.Socket = c.socket
	return c.write(st)
}

// write writes the state, at once for whoever reads it.
func (c *claim) write(st Found) error {
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	next := c.path(stateName + ".next")
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(next, c.path(stateName)); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	c.state = st
	return nil
}

// update writes the state as change leaves it.
func (c *claim) update(now time.Time, change func(*Found)) error {
	st := c.state
	change(&st)
	st.Updated = now
	return c.write(st)
}

// clear empties the directory but for the lock.
func (c *claim) clear() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("read state directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		if err := removeAll(c.path(e.Name())); err != nil {
			return fmt.Errorf("clear state directory: %w", err)
		}
	}
	return nil
}

// path returns the path of a file in the sandbox's directory.
func (c *claim) path(name string) string { return filepath.Join(c.dir, name) }

// end lets the name go when the sandbox has ended: the directory of one that is
// kept says how, any other goes. It is idempotent.
func (c *claim) end(ended control.Ended) error {
	if c.lock == nil {
		return nil
	}
	if !c.state.Keep {
		return c.remove()
	}
	err := c.update(ended.At, func(st *Found) { st.Status, st.Ended = control.StatusStopped, &ended })
	return errors.Join(err, c.unlock())
}

// abandon lets the name go when the sandbox couldn't be started: it is as it was
// before.
func (c *claim) abandon() error {
	if c.lock == nil {
		return nil
	}
	if c.before == nil {
		return c.remove()
	}
	return errors.Join(c.write(*c.before), c.unlock())
}

// remove removes socket and directory and lets the name go. It is idempotent.
func (c *claim) remove() error {
	if c.lock == nil {
		return nil
	}
	errs := []error{removed(os.Remove(c.socket)), c.clear(), removed(os.Remove(c.path(lockName)))}
	// With the lock's name gone somebody else may have begun here already;
	// then the directory is not empty, and theirs.
	_ = os.Remove(c.dir)
	return errors.Join(append(errs, c.unlock())...)
}

// unlock lets the name go, and the socket with it: the directory stays as it is.
func (c *claim) unlock() error {
	if c.lock == nil {
		return nil
	}
	err := errors.Join(removed(os.Remove(c.socket)), c.lock.Close())
	c.lock = nil
	return err
}

// removed returns err, the result of a removal, unless there was nothing.
func removed(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Sweep removes what sandboxes left that died without cleaning up, and returns
// their names; those that are kept it marks as crashed. What is running, or
// starting, is left alone. Every sandbox does so as it starts: what two processes
// left that were killed together goes then.
func (d Dirs) Sweep() ([]string, error) {
	entries, err := os.ReadDir(d.sandboxes())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read sandboxes: %w", err)
	}
	var swept []string
	var errs []error
	for _, e := range entries {
		found, err := d.sweep(e.Name())
		if err != nil {
			errs = append(errs, err)
		}
		if found {
			swept = append(swept, e.Name())
		}
	}
	return swept, errors.Join(append(errs, d.sweepBlocks())...)
}

// sweep is Sweep for one name. It reports whether there was something, that
// nobody holds, to remove or to mark.
func (d Dirs) sweep(name string) (bool, error) {
	c, err := d.reclaim(name)
	if c == nil || err != nil {
		return false, err
	}
	st, err := readState(c.dir)
	if err != nil || !st.Keep {
		err = c.remove()
		return err == nil, err
	}
	if !st.settle() {
		return false, c.unlock()
	}
	err = errors.Join(c.write(st), c.unlock())
	return err == nil, err
}

// reclaim claims the directory of a sandbox that has ended, nil if there is none
// or somebody holds it.
func (d Dirs) reclaim(name string) (*claim, error) {
	c := &claim{dir: d.dir(name), socket: d.socket(name)}
	if _, err := os.Stat(c.dir); err != nil {
		return nil, removed(err)
	}
	var err error
	c.lock, err = lockFile(c.path(lockName))
	if errors.Is(err, errHeld) || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}
