package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// programs is a directory that is this namespace's own and that every guest sees.
// A sandbox hides /tmp and /var/tmp, and a user's cache may be closed to its guest.
const programs = "/mnt"

// Build builds commands of the module, as they are shipped, and returns the directory
// that they are in, under the names of their packages. Every guest can run them
// from there. The caller removes it.
func Build(packages ...string) (dir string, err error) {
	if Outside() == nil {
		dir = programs
	}
	if dir, err = os.MkdirTemp(dir, "sluice-test-"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	for _, pkg := range packages {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, filepath.Base(pkg)), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", errors.Join(fmt.Errorf("build %s: %w\n%s", pkg, err, out), os.RemoveAll(dir))
		}
	}
	return dir, nil
}
