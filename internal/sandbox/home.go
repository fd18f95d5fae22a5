package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// Dirs are the directories that sandboxes of one user share.
type Dirs struct {
	// Home holds states, claims and events, and survives a reboot.
	Home string
	// Runtime holds sockets. Its path is short.
	Runtime string
}

// UserDirs returns the directories that the environment asks for, as getenv
// tells it. It creates nothing.
//
// Home is $SLUICE_HOME, or else sluice in the user's state directory:
// $XDG_STATE_HOME or ~/.local/state, on macOS ~/Library/Application Support, on
// Windows %LocalAppData%. Runtime is $XDG_RUNTIME_DIR/sluice, or else one in the
// temporary directory that is named after the user.
func UserDirs(getenv func(string) string) (Dirs, error) {
	home, err := userHome(getenv)
	if err != nil {
		return Dirs{}, err
	}
	if home, err = filepath.Abs(home); err != nil {
		return Dirs{}, fmt.Errorf("find state directory: %w", err)
	}
	run := filepath.Join(os.TempDir(), "sluice-"+strconv.Itoa(os.Getuid()))
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		run = filepath.Join(dir, "sluice")
	}
	return Dirs{Home: home, Runtime: run}, nil
}

func userHome(getenv func(string) string) (string, error) {
	if dir := getenv("SLUICE_HOME"); dir != "" {
		return dir, nil
	}
	if runtime.GOOS == "windows" {
		if dir := getenv("LocalAppData"); dir != "" {
			return filepath.Join(dir, "sluice"), nil
		}
		return "", errors.New("find state directory: neither SLUICE_HOME nor LocalAppData is set")
	}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sluice"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("find state directory: none of SLUICE_HOME, XDG_STATE_HOME and HOME is set")
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "sluice"), nil
	}
	return filepath.Join(home, ".local", "state", "sluice"), nil
}

// Create makes the directories, for the user alone. A directory that somebody
// else owns, or may write to, is refused: in a shared temporary directory it
// may have been put there to be found.
func (d Dirs) Create() error {
	for _, dir := range []string{d.Home, d.Runtime, d.sandboxes(), d.blocks()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
	}
	for _, dir := range []string{d.Home, d.Runtime} {
		info, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("inspect directory: %w", err)
		}
		if err := checkPrivate(dir, info); err != nil {
			return err
		}
	}
	return nil
}

// checkPrivate reports why the directory at dir is not ours alone, nil if it
// is.
func checkPrivate(dir string, info fs.FileInfo) error {
	switch {
	case !info.IsDir():
		return fmt.Errorf("%q is not a directory but %v", dir, info.Mode().Type())
	case !ownedByUser(info):
		return fmt.Errorf("directory %q belongs to another user", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("directory %q may be written by others (mode %v): chmod go-w it", dir, info.Mode().Perm())
	}
	return nil
}

func (d Dirs) sandboxes() string { return filepath.Join(d.Home, "sandboxes") }
func (d Dirs) blocks() string    { return filepath.Join(d.Home, "blocks") }

// socket returns the path of a sandbox's control socket. Names may be as long
// as the path may be, hence the hash; homes may be many, hence its input.
func (d Dirs) socket(name string) string {
	sum := sha256.Sum256([]byte(d.Home + "\x00" + name))
	return filepath.Join(d.Runtime, hex.EncodeToString(sum[:8])+".sock")
}

// A state is what a sandbox's directory says about it, for those who find it
// when its process is gone, or look for its socket.
type state struct {
	Name    string    `json:"name"`
	PID     int       `json:"pid"`
	Created time.Time `json:"created"`
	Socket  string    `json:"socket"`
}

// A claim is the right to a sandbox's name, and the directory that goes with
// it. It is not for concurrent use.
type claim struct {
	dir    string
	socket string
	lock   *os.File // nil after release
}

// claimName claims name and makes its directory anew. The error matches
// errHeld if a running sandbox has that name. The caller must have checked
// that name can't lead out of the directory.
func (d Dirs) claimName(name string, pid int, now time.Time) (*claim, error) {
	c := &claim{dir: filepath.Join(d.sandboxes(), name), socket: d.socket(name)}
	var err error
	if c.lock, err = lockIn(c.dir); err != nil {
		return nil, err
	}
	if err := c.begin(state{Name: name, PID: pid, Created: now, Socket: c.socket}); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

const lockName = "lock"

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

// begin removes what a dead sandbox of the same name left, and writes who we
// are.
func (c *claim) begin(st state) error {
	if err := c.clear(); err != nil {
		return err
	}
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := os.WriteFile(c.path("state.json"), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
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
		if err := os.RemoveAll(c.path(e.Name())); err != nil {
			return fmt.Errorf("clear state directory: %w", err)
		}
	}
	return nil
}

// path returns the path of a file in the sandbox's directory.
func (c *claim) path(name string) string { return filepath.Join(c.dir, name) }

// release removes socket and directory and lets the name go. It is idempotent.
func (c *claim) release() error {
	if c.lock == nil {
		return nil
	}
	errs := []error{removed(os.Remove(c.socket)), c.clear(), removed(os.Remove(c.path(lockName)))}
	// With the lock's name gone somebody else may have begun here already;
	// then the directory is not empty, and theirs.
	_ = os.Remove(c.dir)
	errs = append(errs, c.lock.Close())
	c.lock = nil
	return errors.Join(errs...)
}

// removed returns err, the result of a removal, unless there was nothing.
func removed(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Sweep removes what sandboxes left that died without cleaning up, and returns
// their names. What is running, or starting, is left alone. Every sandbox does so
// as it starts: what two processes left that were killed together goes then.
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
// nobody holds, to remove.
func (d Dirs) sweep(name string) (bool, error) {
	c := &claim{dir: filepath.Join(d.sandboxes(), name), socket: d.socket(name)}
	if _, err := os.Stat(c.dir); err != nil {
		return false, removed(err)
	}
	var err error
	c.lock, err = lockFile(c.path(lockName))
	if errors.Is(err, errHeld) || errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = c.release()
	return err == nil, err
}
