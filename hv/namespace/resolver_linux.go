package namespace

import (
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// etcLayer is the directory that lies above the host's /etc in the overlay. It
// has plain files for the agent's, since the host's may be symbolic links into
// a directory that is hidden.
const etcLayer = "/etc"

// layResolver makes etcLayer.
func layResolver() error {
	if err := os.Mkdir(etcLayer, 0o755); err != nil {
		return err
	}
	for _, name := range resolver {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// showResolver shows files of the scratch, which the agent can write, in the
// place of etcLayer's.
func showResolver() error {
	for _, name := range resolver {
		file := scratch + "/etc-" + path.Base(name)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			return err
		}
		target, err := filePoint(name)
		if err != nil {
			return err
		}
		err = bind(file, unix.S_IFREG, target, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		unix.Close(target)
		if err != nil {
			return err
		}
	}
	return nil
}
