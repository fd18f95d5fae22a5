package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// Probe starts a guest with a card, until its agent answers; that takes a few
// milliseconds.
func (h *Hypervisor) Probe(ctx context.Context) hv.Report {
	err := h.tryGuest(ctx)
	if err == nil {
		return hv.Report{Usable: true, Reason: "a guest started and answered; " + processBound()}
	}
	report := hv.Report{Reason: strings.ReplaceAll(err.Error(), "\n", "; ")}
	var unusable *unusableError
	if errors.As(err, &unusable) {
		report.Fix = unusable.fix
	}
	return report
}

// tryGuest starts a guest and ends it when its agent has answered.
func (h *Hypervisor) tryGuest(ctx context.Context) error {
	vm, err := h.Start(ctx, hv.Config{Name: "probe", NIC: &hv.NIC{}})
	if err != nil {
		return err
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	return client.Boot(ctx, guest.Bootstrap{})
}

// An unusableError is a failure to start for which the host's settings are to
// blame. It wraps its cause and errors.ErrUnsupported.
type unusableError struct {
	cause error
	fix   string // what would help, as a command where there is one
}

func (e *unusableError) Error() string   { return e.cause.Error() }
func (e *unusableError) Unwrap() []error { return []error{e.cause, errors.ErrUnsupported} }

// A host is what explains a failed start: the files that hold its settings.
type host struct {
	root string // "" on the real one
	tun  string // the clone device; "" if the guest needs none
	uid  int
}

// explain returns err, as an unusableError if a setting of the host explains
// it. The first that does counts; the order is from the special to the general.
func (h host) explain(err error) error {
	for _, look := range []func(error) string{h.tunFix, h.sysctlFix, h.overlayFix, h.containerFix} {
		if fix := look(err); fix != "" {
			return &unusableError{cause: err, fix: fix}
		}
	}
	return err
}

// tunFix explains a clone device that can't be opened.
func (h host) tunFix(error) string {
	if h.tun == "" {
		return ""
	}
	f, err := os.OpenFile(h.root+h.tun, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return ""
	case errors.Is(err, fs.ErrPermission):
		return "sudo chmod 666 " + h.tun
	case h.inContainer():
		return "run the container with --device " + h.tun
	}
	return "sudo modprobe tun"
}

// sysctlFix explains namespaces that are switched off.
func (h host) sysctlFix(error) string {
	for _, s := range []struct {
		name string
		bad  string // the value that is in the way
		good string // what to set
		user bool   // only in the way of ordinary users
	}{
		{"user.max_user_namespaces", "0", "15000", false},
		{"user.max_net_namespaces", "0", "15000", false},
		{"kernel.unprivileged_userns_clone", "0", "1", true},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0", true},
		{"vm.memfd_noexec", "2", "1", false},
	} {
		value, err := os.ReadFile(filepath.Join(h.root+"/proc/sys", strings.ReplaceAll(s.name, ".", "/")))
		if err == nil && string(bytes.TrimSpace(value)) == s.bad && (h.uid != 0 || !s.user) {
			return fmt.Sprintf("sudo sysctl %s=%s", s.name, s.good)
		}
	}
	return ""
}

// overlayFix explains a kernel without overlays.
func (h host) overlayFix(err error) string {
	if types, readErr := os.ReadFile(h.root + "/proc/filesystems"); readErr == nil &&
		errors.Is(err, unix.ENODEV) && !bytes.Contains(types, []byte("\toverlay\n")) {
		return "sudo modprobe overlay"
	}
	return ""
}

// containerFix explains a refusal inside of a container.
func (h host) containerFix(err error) string {
	if errors.Is(err, unix.EPERM) && h.inContainer() {
		return "run the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
	}
	return ""
}

// inContainer reports whether this is the inside of a Docker or Podman
// container.
func (h host) inContainer() bool {
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(h.root + mark); err == nil {
			return true
		}
	}
	return false
}
