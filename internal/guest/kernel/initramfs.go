package kernel

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sluicenet/sluice/internal/image/disk"
)

// Initramfs returns an initramfs as an unnamed file: agent, a static executable
// of the guest's processor, as the program at init; the needed modules, and what
// they need, in modulesDir, named in the order in which they are to be loaded;
// before them the helpful ones, if the kernel has them; a console. A kernel that
// takes no initramfs gets an error. The caller closes the file.
func (k Kernel) Initramfs(agent, init, modulesDir string, needed, helpful []string) (*os.File, error) {
	if k.Bundled {
		return nil, errors.New("pack initramfs: libkrunfw's kernel takes none")
	}
	modules, err := k.modules(needed, helpful)
	if err != nil {
		return nil, fmt.Errorf("pack initramfs: %w", err)
	}
	f, err := unnamed(func(w *os.File) error { return k.writeInitramfs(w, agent, init, modulesDir, modules) })
	if err != nil {
		return nil, fmt.Errorf("pack initramfs: %w", err)
	}
	return f, nil
}

// writeInitramfs writes the archive.
func (k Kernel) writeInitramfs(w io.Writer, agent, init, modulesDir string, modules []module) error {
	c := &cpioWriter{w: w}
	c.directory("dev", 0o755)
	// Process 1's standard files, before there is a devtmpfs.
	c.device("dev/console", 0o600, 5, 1)
	executable, err := os.Open(agent)
	if err != nil {
		return err
	}
	defer executable.Close()
	info, err := executable.Stat()
	if err != nil {
		return err
	}
	c.file(strings.TrimPrefix(init, "/"), 0o755, executable, info.Size())
	dir := strings.TrimPrefix(modulesDir, "/")
	c.directory(dir, 0o755)
	for i, m := range modules {
		text, compressed, err := k.read(m)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s/%03d-%s.ko", dir, i, m.name)
		if compressed {
			name += ".xz"
		}
		c.file(name, 0o644, bytes.NewReader(text), int64(len(text)))
	}
	return c.close()
}

// BootDisk returns, for a kernel that takes no initramfs, a disk with an ext4 file
// system as an unnamed file: the agent as the program at init, and directories to
// mount on. The caller closes it.
func (k Kernel) BootDisk(agent, init string, dirs ...string) (*os.File, error) {
	f, err := unnamed(func(w *os.File) error { return writeBootDisk(w, agent, init, dirs) })
	if err != nil {
		return nil, fmt.Errorf("make boot disk: %w", err)
	}
	return f, nil
}

// writeBootDisk writes the disk.
func writeBootDisk(w *os.File, agent, init string, dirs []string) error {
	executable, err := os.Open(agent)
	if err != nil {
		return err
	}
	defer executable.Close()
	info, err := executable.Stat()
	if err != nil {
		return err
	}
	r, pipe := io.Pipe()
	go func() {
		files := tar.NewWriter(pipe)
		err := files.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(init, "/"), Mode: 0o755, Size: info.Size()})
		if err == nil {
			_, err = io.Copy(files, executable)
		}
		for _, dir := range dirs {
			if err == nil {
				err = files.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755})
			}
		}
		pipe.CloseWithError(errors.Join(err, files.Close()))
	}()
	defer r.Close()
	return disk.FromTar(r, w)
}
