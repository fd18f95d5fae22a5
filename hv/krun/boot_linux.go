package krun

import (
	"io"
	"os"
	"path/filepath"

	"github.com/sluicenet/sluice/internal/guest/machine"
)

// bootDirectories are those that the guest's process 1 mounts something on. They
// must be there: the directory is read-only to it.
var bootDirectories = []string{"dev", "proc", "sys", "lower", "upper", "root", "run", "tmp"}

// makeBoot makes the directory that a guest boots from, with a copy of the agent.
// It is a copy because a library that can't show directories read-only lets the
// guest write to it.
func makeBoot(dir, agent string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range bootDirectories {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	from, err := os.Open(agent)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, machine.Role), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from) // shares the blocks where the file system can
	if closeErr := to.Close(); err == nil {
		err = closeErr
	}
	return err
}
