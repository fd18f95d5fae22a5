package namespace

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/guest"
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

// showTrust shows copies of the host's bundles of certificates and of Java's
// stores, which the agent can write, in their place: a sandbox that intercepts TLS
// adds a certificate to them. What can't be shown so stays the host's, read-only,
// and the agent names another bundle to programs.
func showTrust() error {
	names := guest.TrustFiles()
	for _, pattern := range guest.JavaStores() {
		found, err := filepath.Glob(newRoot + pattern)
		if err != nil {
			return err // a pattern of ours
		}
		for _, name := range found {
			names = append(names, strings.TrimPrefix(name, newRoot))
		}
	}
	for i, name := range names {
		target, err := inRoot(name) // a link leads to what it is of
		if err != nil {
			continue // not this distribution's
		}
		err = showCopy(target, scratch+"/trust-"+strconv.Itoa(i))
		unix.Close(target)
		if err != nil {
			return fmt.Errorf("show %s: %w", name, err)
		}
	}
	return nil
}

// maxTrust bounds a bundle that is copied, in bytes: ten times a distribution's.
const maxTrust = 4 << 20

// showCopy shows a copy of target, made at file, in its place, if it is a file of
// a size to copy.
func showCopy(target int, file string) error {
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxTrust {
		return nil
	}
	text, err := os.ReadFile(descriptorPath(target))
	if err != nil {
		return nil // not for the guest's root to read
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	return bind(file, unix.S_IFREG, target, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}
