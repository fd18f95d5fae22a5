package vz

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

var testLimits = limits{minCPUs: 1, maxCPUs: 8, minMemory: 4 * mebibyte, maxMemory: 8 << 30}

func TestNewPlanRefuses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*hv.Config)
		want   string
	}{
		{"no disk", func(c *hv.Config) { c.Disks = nil }, "needs an image"},
		{"a directory", func(c *hv.Config) { c.Root = "/r" }, "no directory"},
		{"no file system", func(c *hv.Config) { c.Disks[0].Format = hv.Raw }, "no file system that is known"},
		{"too many processors", func(c *hv.Config) { c.CPUs = 9 }, "1 to 8"},
		{"too much memory", func(c *hv.Config) { c.MemoryMiB = 8193 }, "8192 at most"},
		{"standard files", func(c *hv.Config) { c.Stdio[1] = os.Stdout }, "standard ones"},
		{"mounts", func(c *hv.Config) { c.Mounts = []hv.Mount{{Source: "/s", Target: "/t"}} }, "can't show"},
		{"not Ethernet", func(c *hv.Config) { c.NIC = &hv.NIC{MAC: make(net.HardwareAddr, 8)} }, "not of Ethernet"},
	} {
		cfg := diskConfig()
		row.change(&cfg)
		if _, err := newPlan(cfg, testLimits); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v; want %q", row.name, err, row.want)
		}
	}
}

func TestNewPlan(t *testing.T) {
	t.Parallel()
	cfg := diskConfig()
	cfg.Disks = append(cfg.Disks, hv.Disk{Path: "upper", Format: hv.Ext4}, hv.Disk{Path: "/data", Format: hv.Raw})
	cfg.CPUs, cfg.MemoryMiB = 4, 2048
	cfg.NIC = &hv.NIC{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 9000}
	p, err := newPlan(cfg, testLimits)
	if err != nil {
		t.Fatal(err)
	}
	if p.cpus != 4 || p.memory != 2<<30 || p.card.mac != "02:00:00:00:00:01" || p.card.mtu != 9000 {
		t.Errorf("%+v", p)
	}
	var disks []string
	for _, d := range p.disks {
		disks = append(disks, d.identifier)
		if d.path[0] != '/' {
			t.Errorf("path %q is not absolute", d.path)
		}
	}
	if !slices.Equal(disks, []string{"root", "upper", ""}) || !p.disks[0].readOnly || p.disks[1].readOnly {
		t.Errorf("disks %+v", p.disks)
	}
	if want := "console=hvc0 quiet panic=-1 rdinit=/sluice:machine sluice.root=ext4 sluice.upper=ext4 sluice.end=off"; p.commandLine != want {
		t.Errorf("command line %q, want %q", p.commandLine, want)
	}
}

// A file system that can't be written is attached so, whatever the caller says.
func TestNewPlanKeepsEROFS(t *testing.T) {
	t.Parallel()
	p, err := newPlan(hv.Config{Disks: []hv.Disk{{Path: "/r", Format: hv.EROFS}}}, testLimits)
	if err != nil || !p.disks[0].readOnly || !strings.Contains(p.commandLine, "sluice.root=erofs ") {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		asked      uint32
		least, max uint64
		want       uint64 // 0: refused
	}{
		{0, 4 * mebibyte, 8 << 30, 512 * mebibyte},
		{1, 4 * mebibyte, 8 << 30, 4 * mebibyte},
		{1, 4*mebibyte + 1, 8 << 30, 5 * mebibyte}, // rounded up to what the framework takes
		{100, 0, 100*mebibyte + 4096, 100 * mebibyte},
		{101, 0, 100*mebibyte + 4096, 0},
		{4294967295, 0, 1 << 63, 4294967295 * mebibyte},
	} {
		got, err := memory(row.asked, limits{minMemory: row.least, maxMemory: row.max})
		if got != row.want || (err == nil) != (row.want != 0) || got%mebibyte != 0 {
			t.Errorf("memory(%d) within %d…%d = %d, %v; want %d", row.asked, row.least, row.max, got, err, row.want)
		}
	}
}

// The framework takes an MTU of 1500 to 65535.
func TestNewCard(t *testing.T) {
	t.Parallel()
	for mtu, want := range map[uint16]int{0: 1500, 1280: 1500, 1500: 1500, 1501: 1501, 65520: 65520, 65535: 65535} {
		if c, err := newCard(hv.NIC{MTU: mtu}); err != nil || c.mtu != want {
			t.Errorf("MTU %d: %+v, %v; want %d", mtu, c, err, want)
		}
	}
	a, _ := newCard(hv.NIC{})
	b, _ := newCard(hv.NIC{})
	if mac, err := net.ParseMAC(a.mac); err != nil || mac[0]&3 != 2 || a.mac == b.mac {
		t.Errorf("addresses %s and %s; want two that are locally administered", a.mac, b.mac)
	}
}

func TestStateHasAName(t *testing.T) {
	t.Parallel()
	for s, want := range map[state]string{stopped: "stopped", restoring: "restoring", 10: "state 10", -1: "state -1"} {
		if got := s.String(); got != want {
			t.Errorf("%d: %q, want %q", int(s), got, want)
		}
	}
}
