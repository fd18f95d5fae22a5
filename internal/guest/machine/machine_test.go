package machine

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// What the host writes the guest reads, among the kernel's own words.
func TestSetup(t *testing.T) {
	t.Parallel()
	for _, s := range []Setup{{Root: "ext4"}, {Root: "erofs", Upper: "ext4"}, {Root: "ext4", Writable: true}, {Root: "virtiofs"},
		{Root: "ext4", Upper: "ext4", ByOrder: true}, {Root: "virtiofs", Vsock: 1024}, {Root: "ext4", Off: true},
		{Root: "ext4", Memory: []MemoryDir{{Path: "/tmp"}, {Path: "/a b/\"ü%,\n", SizeMiB: 7, ReadOnly: true}, {Path: "/c", NoExec: true}}}} {
		line := "console=ttyS0 quiet " + strings.Join(s.Words(), " ") + " panic=-1\n"
		if got, err := parseSetup(line); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("parseSetup(%q) = %+v, %v; want %+v", line, got, err, s)
		}
		quoted := `console=hvc0 "KRUN_INIT_PID1=1" "` + strings.Join(s.Words(), `" "`) + `" -- ` + "\n"
		if got, err := parseSetup(quoted); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("parseSetup(%q) = %+v, %v; want %+v", quoted, got, err, s)
		}
	}
}

func TestSetupErrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ line, want string }{
		{"quiet", "names no root"},
		{"sluice.root=", "names no root"},
		{"sluice.root=btrfs", `"btrfs"`},
		{"sluice.root=ext4 sluice.upper=overlay", `"overlay"`},
		{"sluice.root=ext4,rw sluice.upper=ext4", "can't be one"},
		{"sluice.root=ext4 sluice.upper=erofs", "can't be one"},
		{"sluice.root=ext4 sluice.upper=virtiofs", "can't be one"},
		{"sluice.root=ext4,ro", `"ext4,ro"`},
		{"sluice.root=ext4 sluice.vsock=", `"" as a port`},
		{"sluice.root=ext4 sluice.vsock=4294967296", "as a port"},
		{"sluice.root=ext4 sluice.memory=%2Ftmp", "as a directory"},
		{"sluice.root=ext4 sluice.memory=%2Ftmp,-1", "as a directory"},
		{"sluice.root=ext4 sluice.memory=%2Ft%,1", "as a directory"},
		{"sluice.root=ext4 sluice.memory=tmp,1", "not an absolute"},
		{"sluice.root=ext4 sluice.memory=%2F,1", "below the root"},
		{"sluice.root=ext4 sluice.memory=%2Fa%2F..%2Fb,1", "clean"},
	} {
		if s, err := parseSetup(row.line); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("parseSetup(%q) = %+v, %v; want an error that says %q", row.line, s, err, row.want)
		}
	}
}

// The first disk is the root; the second takes the writes if it can.
func TestSetupOf(t *testing.T) {
	t.Parallel()
	root := hv.Disk{Path: "root", ReadOnly: true, Format: hv.Ext4}
	mounts := func(mounts ...hv.Mount) hv.Config { return hv.Config{Disks: []hv.Disk{root}, Mounts: mounts} }
	for _, row := range []struct {
		name string
		cfg  hv.Config
		want Setup
		says string // in the error
	}{
		{"read-only", hv.Config{Disks: []hv.Disk{root}}, Setup{Root: "ext4"}, ""},
		{"EROFS", hv.Config{Disks: []hv.Disk{{Format: hv.EROFS}}}, Setup{Root: "erofs"}, ""},
		{"writable", hv.Config{Disks: []hv.Disk{{Format: hv.Ext4}}}, Setup{Root: "ext4", Writable: true}, ""},
		{"upper", hv.Config{Disks: []hv.Disk{root, {Format: hv.Ext4}}}, Setup{Root: "ext4", Upper: "ext4"}, ""},
		{"second is read-only", hv.Config{Disks: []hv.Disk{root, root}}, Setup{Root: "ext4"}, ""},
		{"second is raw", hv.Config{Disks: []hv.Disk{root, {}}}, Setup{Root: "ext4"}, ""},
		{"second is of no use", hv.Config{Disks: []hv.Disk{{Format: hv.Ext4}, {Format: hv.Ext4}}}, Setup{Root: "ext4", Writable: true}, ""},
		{"directory", hv.Config{Root: "/root"}, Setup{Root: "virtiofs"}, ""},
		{"memory", mounts(hv.Mount{Target: "/m", SizeMiB: 3, ReadOnly: true, NoExec: true, NoSUID: true, NoDev: true}),
			Setup{Root: "ext4", Memory: []MemoryDir{{Path: "/m", SizeMiB: 3, ReadOnly: true, NoExec: true}}}, ""},
		{"none", hv.Config{}, Setup{}, "needs an image"},
		{"raw", hv.Config{Disks: []hv.Disk{{}}}, Setup{}, "no file system"},
		{"both", hv.Config{Root: "/root", Disks: []hv.Disk{root}}, Setup{}, "both a root directory"},
		{"standard files", hv.Config{Stdio: [3]*os.File{os.Stdin}, Disks: []hv.Disk{root}}, Setup{}, "standard ones"},
		{"a path of the host's", mounts(hv.Mount{Target: "/src", Source: "/home"}), Setup{}, `can't show "/home" of the host's at "/src"`},
		{"the root", mounts(hv.Mount{Target: "/"}), Setup{}, "below the root"},
		{"a path that leads back", mounts(hv.Mount{Target: "/a/../b"}), Setup{}, "clean"},
		{"a long path", mounts(hv.Mount{Target: "/" + strings.Repeat("p", maxMemoryWords)}), Setup{}, "too long"},
	} {
		got, err := SetupOf(row.cfg)
		if row.says != "" {
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("%s: %v; want an error that says %q", row.name, err, row.says)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %+v, %v; want %+v", row.name, got, err, row.want)
		}
	}
	if _, err := SetupOf(mounts(hv.Mount{Target: "/src", Source: "/home"})); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(hv.HelpFor(err), "copy it in") {
		t.Errorf("%v, %q; want it to match ErrUnsupported, and a way out", err, hv.HelpFor(err))
	}
}

func TestModules(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		setup Setup
		want  string
	}{
		{Setup{Root: "ext4"}, "virtio_console virtio_net virtio_blk overlay ext4"},
		{Setup{Root: "ext4", Upper: "ext4"}, "virtio_console virtio_net virtio_blk overlay ext4"},
		{Setup{Root: "erofs", Upper: "ext4"}, "virtio_console virtio_net virtio_blk overlay erofs ext4"},
	} {
		needed, helpful := row.setup.Modules()
		if got := strings.Join(needed, " "); got != row.want || len(helpful) != 1 {
			t.Errorf("%+v: %s and %q; want %s", row.setup, got, helpful, row.want)
		}
	}
}

// Who must tell the host of an error needs to know how.
func TestSetupBesideAnError(t *testing.T) {
	t.Parallel()
	if s, err := parseSetup("sluice.vsock=7 sluice.end=off"); err == nil || s.Vsock != 7 || !s.Off {
		t.Errorf("%+v, %v", s, err)
	}
}
