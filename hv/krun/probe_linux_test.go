//go:build cgo

package krun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// A boot is the proof. It is remembered, across processes too, as long as nothing
// changes that it depends on.
func TestProbeRemembersABoot(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	h := s.hypervisor(t)
	boots := func() int {
		return strings.Count(strings.Join(s.calls(t), "\n"), "krun_start_enter")
	}
	if r := h.Probe(t.Context()); !r.Usable || !strings.Contains(r.Reason, s.path) || boots() != 1 {
		t.Fatalf("%+v after %d boots", r, boots())
	}
	other := s.hypervisor(t)
	other.cache = h.cache
	for _, h := range []*Hypervisor{h, other} {
		if r := h.Probe(t.Context()); !r.Usable || boots() != 1 {
			t.Errorf("%+v after %d boots; want what is remembered", r, boots())
		}
	}
	// Another library is another matter.
	text, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path+".new", append(text, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		t.Fatal(err)
	}
	if r := other.Probe(t.Context()); !r.Usable || boots() != 2 {
		t.Errorf("%+v after %d boots; want another", r, boots())
	}
	s.checkContract(t)
}

// Whatever is in the way is told with what would help.
func TestProbeSaysWhyNot(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		stub   stub
		change func(*Hypervisor)
		reason string
		fix    string
	}{
		{"no library", buildStub(t, nil), func(h *Hypervisor) { h.libraries = []string{"/nowhere/libkrun.so.1"} }, "can't be opened", "SLUICE_LIBKRUN"},
		{"no KVM", buildStub(t, nil), func(h *Hypervisor) { h.kvm = "/nowhere/kvm" }, "no such file", "modprobe"},
		{"no network", buildStub(t, nil, "feature 0 0"), nil, "without network devices", "NET=1"},
		{"no disks", buildStub(t, nil, "feature 1 0"), nil, "without disks", "BLK=1"},
		{"too old", buildStub(t, []string{"krun_add_net_unixstream"}), nil, "krun_add_net_unixstream", "NET=1"},
		{"a failure", buildStub(t, nil, "fail krun_start_enter 22"), nil, "krun_start_enter: invalid argument", ""},
	} {
		h := row.stub.hypervisor(t)
		if row.change != nil {
			row.change(h)
		}
		r := h.Probe(t.Context())
		if r.Usable || !strings.Contains(r.Reason, row.reason) || !strings.Contains(r.Fix, row.fix) || strings.Contains(r.Reason, "\n") {
			t.Errorf("%s: %+v; want %q and the fix %q", row.name, r, row.reason, row.fix)
		}
	}
}

// A library that can't show a directory read-only proves itself by a disk that
// isn't one.
func TestProbeOfAnOlderLibrary(t *testing.T) {
	t.Parallel()
	s := buildStub(t, []string{"krun_add_virtiofs3"})
	if r := s.hypervisor(t).Probe(t.Context()); !r.Usable {
		t.Errorf("%+v", r)
	}
	s.checkContract(t)
}

// A memory that can't be read or written costs a boot, and nothing else.
func TestMemoryIsNoMatter(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	h := s.hypervisor(t)
	if err := os.WriteFile(h.memoryFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.Probe(t.Context()); !r.Usable {
		t.Errorf("%+v", r)
	}
	h = s.hypervisor(t)
	h.cache = filepath.Join(os.DevNull, "nowhere")
	if r := h.Probe(t.Context()); !r.Usable {
		t.Errorf("%+v", r)
	}
}

// A guest's disks are given as they are, and named to its process 1 by their order.
func TestDisks(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	dir := t.TempDir()
	cfg := hv.Config{Name: "disks", Disks: []hv.Disk{
		{Path: filepath.Join(dir, "root"), ReadOnly: true, Format: hv.Ext4},
		{Path: filepath.Join(dir, "upper"), Format: hv.Ext4},
	}}
	for _, d := range cfg.Disks {
		if err := os.WriteFile(d.Path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The stub has no kernel that could mount them: its process 1 says so.
	_, err := s.hypervisor(t).Start(t.Context(), cfg)
	var boot *bootError
	if !errors.As(err, &boot) || !strings.Contains(boot.told.Failure, "sluice.root=ext4\" \"sluice.upper=ext4\" \"sluice.disks=order") {
		t.Errorf("%v", err)
	}
	calls := strings.Join(s.calls(t), "\n")
	for _, want := range []string{"krun_add_disk disk0 " + cfg.Disks[0].Path + " 1", "krun_add_disk disk1 " + cfg.Disks[1].Path + " 0"} {
		if !strings.Contains(calls, want) {
			t.Errorf("no call %q in\n%s", want, calls)
		}
	}
	s.checkContract(t)
}
