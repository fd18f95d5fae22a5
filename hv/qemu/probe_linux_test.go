package qemu

import (
	"errors"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest/kernel"
)

// A probe boots once, and then remembers; what fails says why and what would help.
func TestProbe(t *testing.T) {
	t.Parallel()
	h := emulated(t)
	report := h.Probe(t.Context())
	if !report.Usable || !strings.Contains(report.Reason, "a guest booted and answered") {
		t.Fatalf("Probe = %+v", report)
	}
	if report := h.Probe(t.Context()); !report.Usable || !strings.Contains(report.Reason, "booted with tcg at ") {
		t.Errorf("a second Probe = %+v; want what is remembered", report)
	}
	for _, row := range []struct {
		name        string
		cfg         Config
		reason, fix string
	}{
		{"no QEMU", Config{Program: "/nowhere/qemu"}, "/nowhere/qemu is not installed", "apt-get install"},
		{"no kernel", Config{Kernel: "/nowhere/kernel"}, "no such file", ""},
		{"no accelerator", Config{Accelerators: []string{}}, "no accelerator is allowed", acceleratorsVariable},
		{"unknown", Config{Accelerators: []string{"xen"}}, "there is no such accelerator", "set SLUICE_QEMU_ACCEL to kvm, hvf or tcg"},
		{"QEMU that fails", Config{Program: "/bin/false", Accelerators: []string{tcg}}, "tcg: QEMU ended before the guest was ready", ""},
	} {
		row.cfg.Memory = t.TempDir()
		report := New(row.cfg).Probe(t.Context())
		if report.Usable || !strings.Contains(report.Reason, row.reason) || !strings.Contains(report.Fix, row.fix) || strings.Contains(report.Reason, "\n") {
			t.Errorf("%s: Probe = %+v; want %q and %q", row.name, report, row.reason, row.fix)
		}
	}
}

// A guest that fails for want of memory doesn't keep others from starting.
func TestTooLittleMemory(t *testing.T) {
	t.Parallel()
	h := emulated(t)
	_, err := h.Start(t.Context(), hv.Config{Name: "small", MemoryMiB: 16, Disks: busybox(t)})
	if err == nil || !strings.Contains(err.Error(), "16 MiB of memory may be too little") {
		t.Errorf("Start with 16 MiB = %v; want that it may be too little", err)
	}
	boot(t, h, hv.Config{Disks: busybox(t)})
}

// Where one accelerator doesn't work, the next is tried, and which didn't isn't
// tried again.
func TestNextAccelerator(t *testing.T) {
	t.Parallel()
	h := hypervisor(t, Config{Accelerators: []string{"xen", tcg}, Memory: t.TempDir()})
	vm, client := boot(t, h, hv.Config{Disks: busybox(t)})
	defer vm.Close()
	if got := shell(t, client, "echo up"); got != "up\n" {
		t.Errorf("the guest printed %q", got)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  error
		want string
	}{
		{&missingError{fix: "install"}, "install"},
		{errors.Join(errors.New("x"), &kernel.MissingError{Fix: "a kernel"}), "a kernel"},
		{&acceleratorError{name: kvm, fix: "modprobe"}, "modprobe"},
		{&acceleratorError{name: tcg}, ""},
		{&acceleratorError{name: kvm}, "SLUICE_QEMU_ACCEL=tcg emulates the processor, which is slow"},
		{errors.New("other"), ""},
	} {
		if got := hv.HelpFor(row.err); got != row.want {
			t.Errorf("HelpFor(%v) = %q; want %q", row.err, got, row.want)
		}
	}
}
