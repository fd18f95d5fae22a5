package krun

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

func TestNewSpec(t *testing.T) {
	t.Parallel()
	ext4 := func(path string, readOnly bool) hv.Disk {
		return hv.Disk{Path: path, ReadOnly: readOnly, Format: hv.Ext4}
	}
	erofs := hv.Disk{Path: "/e", ReadOnly: true, Format: hv.EROFS}
	for _, row := range []struct {
		name  string
		cfg   hv.Config
		words string // of process 1; "" where err says why not
		err   string
	}{
		{"a directory", hv.Config{Root: "/r"}, "sluice.root=virtiofs", ""},
		{"a disk", hv.Config{Disks: []hv.Disk{ext4("/a", true)}}, "sluice.root=ext4 sluice.disks=order", ""},
		{"a disk to write to", hv.Config{Disks: []hv.Disk{ext4("/a", false)}}, "sluice.root=ext4,rw sluice.disks=order", ""},
		{"an upper disk", hv.Config{Disks: []hv.Disk{erofs, ext4("/b", false)}}, "sluice.root=erofs sluice.upper=ext4 sluice.disks=order", ""},
		{"a second disk that isn't", hv.Config{Disks: []hv.Disk{erofs, ext4("/b", true)}}, "sluice.root=erofs sluice.disks=order", ""},
		{"memory", hv.Config{Root: "/r", Mounts: []hv.Mount{{Target: "/m", SizeMiB: 8}}}, "sluice.root=virtiofs sluice.memory=%2Fm,8", ""},
		{"nothing", hv.Config{}, "", "needs an image"},
		{"both", hv.Config{Root: "/r", Disks: []hv.Disk{erofs}}, "", "both"},
		{"no file system", hv.Config{Disks: []hv.Disk{{Path: "/x"}}}, "", `"/x" has no file system`},
		{"no kernel", hv.Config{Disks: []hv.Disk{erofs}, Initrd: "/i"}, "", "without a kernel"},
		{"no kernel for a directory", hv.Config{Root: "/r", Initrd: "/i"}, "", "without a kernel"},
		{"a path that C would cut", hv.Config{Disks: []hv.Disk{ext4("/a\x00b", true)}}, "", "zero bytes"},
		{"a path that JSON would change", hv.Config{Root: "/\xff"}, "", "UTF-8"},
		{"standard files", hv.Config{Root: "/r", Stdio: [3]*os.File{nil, os.Stdout, nil}}, "", "standard ones"},
		{"mounts", hv.Config{Root: "/r", Mounts: []hv.Mount{{Source: "/s", Target: "/t"}}}, "", "can't show"},
		{"not Ethernet", hv.Config{Root: "/r", NIC: &hv.NIC{MAC: make(net.HardwareAddr, 8)}}, "", "not of Ethernet"},
	} {
		s, err := newSpec(row.cfg)
		if row.err != "" {
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%s: %v; want an error that says %q", row.name, err, row.err)
			}
			continue
		}
		if got := strings.Join(s.Words[1:], " "); err != nil || got != row.words || s.Words[0] != "init=/sluice:machine" {
			t.Errorf("%s: %v, %v; want %q", row.name, s.Words, err, row.words)
		}
	}
}

// The machine's process has another directory.
func TestNewSpecIsAbsolute(t *testing.T) {
	t.Parallel()
	s, err := newSpec(hv.Config{Disks: []hv.Disk{{Path: "d", Format: hv.Ext4}}, Kernel: "k", Initrd: "i"})
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if s.Kernel != here+"/k" || s.Initrd != here+"/i" || s.Disks[0].Path != here+"/d" {
		t.Errorf("%+v; want paths below %s", s, here)
	}
}

func TestNewSpecSizes(t *testing.T) {
	t.Parallel()
	s, err := newSpec(hv.Config{Root: "relative", NIC: &hv.NIC{}})
	if err != nil || s.CPUs != defaultCPUs || s.MemoryMiB != defaultMemoryMiB || !strings.HasSuffix(s.Root, "/relative") || s.Root[0] != '/' {
		t.Errorf("%+v, %v", s, err)
	}
	if again, _ := newSpec(hv.Config{Root: "/r", NIC: &hv.NIC{}}); s.MAC[0]&3 != 2 || s.MAC == again.MAC {
		t.Errorf("addresses %x and %x; want two that are locally administered", s.MAC, again.MAC)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	s, err = newSpec(hv.Config{Root: "/r", CPUs: 3, MemoryMiB: 99, NIC: &hv.NIC{MAC: mac, MTU: 9000}})
	if err != nil || s.CPUs != 3 || s.MemoryMiB != 99 || !slices.Equal(s.MAC[:], mac) || s.Features != guestCSUM|guestTSO4|guestTSO6 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = newSpec(hv.Config{Root: "/r"}); err != nil || s.Card {
		t.Errorf("%+v, %v; want no card", s, err)
	}
}

// Nothing is negotiated that frames without a header couldn't say.
func TestFeatures(t *testing.T) {
	t.Parallel()
	for mtu, want := range map[uint16]uint32{0: 0, 1280: 0, 1500: 0, 1501: 0x182, 65520: 0x182} {
		if got := features(mtu); got != want {
			t.Errorf("MTU %d: %#x, want %#x", mtu, got, want)
		}
	}
}
