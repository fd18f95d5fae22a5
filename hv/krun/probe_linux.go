package krun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
)

// Probe boots a guest with a card until its agent serves: that there is a KVM, and
// that it makes machines, shows nothing. A boot takes a second, so what it showed
// is remembered for as long as this machine runs with the same library, kernel
// module and user.
func (h *Hypervisor) Probe(ctx context.Context) hv.Report {
	if err := h.checkHost(); err != nil {
		return hv.ReportOf(err)
	}
	o, err := h.look(ctx)
	if err != nil {
		return hv.ReportOf(err)
	}
	if !o.Disks { // images are disks, which alone keep their owners without root
		return hv.ReportOf(offer{Path: o.Path}.fits(spec{Card: true, Disks: []disk{{}}}))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := h.circumstances(o)
	if m := h.remembered(); m != nil && m.Key == key {
		return m.Report
	}
	err = h.tryGuest(ctx, o)
	if ctx.Err() != nil {
		return hv.ReportOf(ctx.Err()) // nothing was shown
	}
	m := &memory{Key: key, Report: hv.Report{Usable: true, Reason: "a guest booted with " + o.Path}}
	if err != nil {
		m.Report = hv.ReportOf(err)
	}
	h.remember(m)
	return m.Report
}

// look returns the offer of the library that a guest would get.
func (h *Hypervisor) look(ctx context.Context) (offer, error) {
	if err := ctx.Err(); err != nil {
		return offer{}, err
	}
	// In a process of its own: a library's constructors are none of this process's
	// business, and it can't be closed again.
	v, err := launch(hv.Config{Name: "probe"})
	if err != nil {
		return offer{}, err
	}
	defer v.Close()
	stop := context.AfterFunc(ctx, func() { v.Kill() })
	defer stop()
	return v.ask(h.searched())
}

// tryGuest boots a guest and ends it when its agent serves. Its root is an empty
// directory; with a library that can't show one, an empty disk, and then the proof
// is that process 1 told the host why it can't be mounted.
func (h *Hypervisor) tryGuest(ctx context.Context, o offer) error {
	dir, err := os.MkdirTemp("", "sluice-krun-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cfg := hv.Config{Name: "probe", NIC: &hv.NIC{}, Root: dir, MemoryMiB: 128}
	if !o.ReadOnly {
		cfg.Root, cfg.Disks = "", []hv.Disk{{Path: filepath.Join(dir, "disk"), ReadOnly: true, Format: hv.Ext4}}
		if err := os.WriteFile(cfg.Disks[0].Path, make([]byte, 1<<20), 0o600); err != nil {
			return err
		}
	}
	v, err := h.start(ctx, cfg)
	var boot *bootError
	if !o.ReadOnly && errors.As(err, &boot) && boot.told.Failure != "" {
		return nil
	}
	if err != nil {
		return err
	}
	return v.Close()
}

// circumstances returns what a boot's outcome depends on, as text: another text
// means that it has to be tried again.
func (h *Hypervisor) circumstances(o offer) string {
	parts := []string{fmt.Sprint(os.Geteuid()), fmt.Sprintf("%+v", o)}
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		parts = append(parts, strings.TrimSpace(string(id)))
	}
	for _, path := range []string{h.kvm, o.Path, filepath.Join(filepath.Dir(o.Path), "libkrunfw.so.5")} {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			parts = append(parts, fmt.Sprintf("%s %d %d %d %d", path, st.Ino, st.Size, st.Mtim.Sec, st.Mode))
		}
	}
	return strings.Join(parts, "\n")
}
