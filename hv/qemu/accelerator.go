package qemu

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// An acceleratorError says that an accelerator doesn't work here. It is an
// errors.ErrUnsupported.
type acceleratorError struct {
	name  string
	cause error
	fix   string // what would help; "" is emulation
}

func (e *acceleratorError) Error() string { return e.name + ": " + e.cause.Error() }

// Help returns what would help, which is emulation if nothing better is known.
func (e *acceleratorError) Help() string {
	if e.name == tcg {
		return e.fix
	}
	return cmp.Or(e.fix, acceleratorsVariable+"=tcg emulates the processor, which is slow")
}

func (e *acceleratorError) Unwrap() []error { return []error{e.cause, errors.ErrUnsupported} }

// kvmDevice is KVM.
const kvmDevice = "/dev/kvm"

// foreign reports that the guests' processor isn't the host's.
func (h *Hypervisor) foreign() bool { return h.cfg.Arch != runtime.GOARCH }

// usable returns an *acceleratorError where it can be known without a boot that an
// accelerator won't do.
func (h *Hypervisor) usable(accelerator string) error {
	failed := func(fix, format string, args ...any) error {
		return &acceleratorError{name: accelerator, cause: fmt.Errorf(format, args...), fix: fix}
	}
	switch accelerator {
	case tcg:
		return nil
	case kvm, hvf:
		if h.cfg.Arch != runtime.GOARCH {
			return failed("", "it runs guests on %s only", runtime.GOARCH)
		}
	default:
		return failed("set "+acceleratorsVariable+" to kvm, hvf or tcg", "there is no such accelerator")
	}
	if accelerator == hvf {
		if runtime.GOOS != "darwin" {
			return failed("", "it is macOS's")
		}
		return nil
	}
	if runtime.GOOS != "linux" {
		return failed("", "it is Linux's")
	}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return failed("sudo usermod -aG kvm $USER, and log in again", "%w", err)
	case err != nil:
		return failed("switch virtualization on in the firmware and modprobe kvm_intel or kvm_amd; or "+acceleratorsVariable+"=tcg, which is slow", "%w", err)
	}
	return f.Close()
}
