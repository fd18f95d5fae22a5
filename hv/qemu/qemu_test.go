//go:build unix

package qemu

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/guest/kernel"
)

func TestDefaultAccelerators(t *testing.T) {
	t.Parallel()
	own := map[string][]string{"linux": {kvm}, "darwin": {hvf}}[runtime.GOOS]
	for _, row := range []struct {
		list string
		want []string
	}{
		{"", own}, {" , ", own}, {"tcg", []string{tcg}}, {"kvm,tcg", []string{kvm, tcg}}, {"kvm, tcg", []string{kvm, tcg}},
	} {
		if got := defaultAccelerators(row.list); !slices.Equal(got, row.want) {
			t.Errorf("defaultAccelerators(%q) = %q; want %q", row.list, got, row.want)
		}
	}
	if slices.Contains(own, tcg) {
		t.Error("emulation is a default")
	}
}

// An accelerator that can't be is refused before anything starts.
func TestUsable(t *testing.T) {
	t.Parallel()
	foreign := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	for _, row := range []struct {
		accelerator, arch string
		want              string // in the error; "" is none
	}{
		{tcg, "amd64", ""}, {tcg, "arm64", ""},
		{kvm, foreign, "guests on " + runtime.GOARCH + " only"},
		{hvf, foreign, "guests on " + runtime.GOARCH + " only"},
		{"xen", runtime.GOARCH, "no such accelerator"},
	} {
		err := New(Config{Arch: row.arch}).usable(row.accelerator)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want) || !errors.Is(err, errors.ErrUnsupported)) {
			t.Errorf("usable(%s) for %s = %v; want %q", row.accelerator, row.arch, err, row.want)
		}
	}
	other := map[string]string{"linux": hvf, "darwin": kvm}[runtime.GOOS]
	if err := New(Config{}).usable(other); other != "" && err == nil {
		t.Errorf("%s is usable on %s", other, runtime.GOOS)
	}
}

func TestChooseBoard(t *testing.T) {
	t.Parallel()
	pciOnly := kernel.Kernel{Modules: t.TempDir()} // has no list of modules, and so none
	native := microvm
	if runtime.GOARCH != "amd64" {
		native = q35
	}
	for _, row := range []struct {
		name, arch, accelerator string
		kernel                  kernel.Kernel
		want                    board
	}{
		{"all built in", "amd64", kvm, kernel.Kernel{}, microvm},
		{"emulated", "amd64", tcg, kernel.Kernel{}, native},
		{"no MMIO", "amd64", kvm, pciOnly, q35},
		{"libkrunfw", "amd64", tcg, kernel.Kernel{Bundled: true}, microvmBare},
		{"arm64", "arm64", hvf, kernel.Kernel{}, virt},
		{"libkrunfw, arm64", "arm64", hvf, kernel.Kernel{Bundled: true}, virtBare},
	} {
		if got := New(Config{Arch: row.arch}).chooseBoard(row.kernel, row.accelerator); got != row.want {
			t.Errorf("%s: %+v; want %+v", row.name, got, row.want)
		}
	}
}
