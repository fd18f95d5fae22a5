package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// seals are what make a memfd unchangeable for good.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sealedExecutable returns this program as a sealed memfd. Process 1 is never
// the host's file: whoever gets hold of /proc/1/exe could write to that, even
// where the guest's mounts are read-only.
//
// The copy is made once. It costs 1 ms per 4 MiB; a program that already runs
// from such a memfd pays nothing.
func (h *Hypervisor) sealedExecutable() (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.executable != nil {
		return h.executable, nil
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	if got, err := unix.FcntlInt(self.Fd(), unix.F_GET_SEALS, 0); err == nil && got&seals == seals {
		h.executable = self
		return self, nil
	}
	defer self.Close()
	h.executable, err = sealedCopy(self)
	return h.executable, err
}

// sealedCopy copies a program into a sealed memfd.
func sealedCopy(program *os.File) (*os.File, error) {
	fd, err := unix.MemfdCreate("sluice", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3 knows no MFD_EXEC
		fd, err = unix.MemfdCreate("sluice", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("create memfd: %w", err)
	}
	memfd := os.NewFile(uintptr(fd), "memfd:sluice")
	if _, err := io.Copy(memfd, program); err != nil {
		memfd.Close()
		return nil, fmt.Errorf("copy executable: %w", err)
	}
	if _, err := unix.FcntlInt(memfd.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		memfd.Close()
		return nil, fmt.Errorf("seal executable: %w", err)
	}
	return memfd, nil
}
