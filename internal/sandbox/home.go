package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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
// temporary directory that is named after the user; where that path is too long
// for a socket's, one in /tmp.
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
	if runtime.GOOS != "windows" && len(run) > maxRuntime {
		run = filepath.Join("/tmp", "sluice-"+strconv.Itoa(os.Getuid()))
	}
	return Dirs{Home: home, Runtime: run}, nil
}

// maxRuntime is how long the path of a directory of sockets may be: a socket's is
// at most 103 bytes on every system, its name in the directory takes 22.
const maxRuntime = 103 - 22

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

// Images returns the directory of the cache of images.
func (d Dirs) Images() string { return filepath.Join(d.Home, "images") }

// Events returns the path of the file with the events of the sandbox of a name.
// That of what was before, if there is one, ends in ".1".
func (d Dirs) Events(name string) string { return filepath.Join(d.sandboxes(), name, eventsName) }

func (d Dirs) sandboxes() string { return filepath.Join(d.Home, "sandboxes") }
func (d Dirs) blocks() string    { return filepath.Join(d.Home, "blocks") }

// socket returns the path of a sandbox's control socket. Names may be as long
// as the path may be, hence the hash; homes may be many, hence its input.
func (d Dirs) socket(name string) string {
	sum := sha256.Sum256([]byte(d.Home + "\x00" + name))
	return filepath.Join(d.Runtime, hex.EncodeToString(sum[:8])+".sock")
}
