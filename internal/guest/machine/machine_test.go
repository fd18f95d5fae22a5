package machine

import (
	"strings"
	"testing"
)

// What the host writes the guest reads, among the kernel's own words.
func TestSetup(t *testing.T) {
	t.Parallel()
	for _, s := range []Setup{{Root: "ext4"}, {Root: "erofs", Upper: "ext4"}, {Root: "ext4", Writable: true}, {Root: "virtiofs"},
		{Root: "ext4", Upper: "ext4", ByOrder: true}, {Root: "virtiofs", Vsock: 1024}, {Root: "ext4", Off: true}} {
		line := "console=ttyS0 quiet " + strings.Join(s.Words(), " ") + " panic=-1\n"
		if got, err := parseSetup(line); err != nil || got != s {
			t.Errorf("parseSetup(%q) = %+v, %v; want %+v", line, got, err, s)
		}
		quoted := `console=hvc0 "KRUN_INIT_PID1=1" "` + strings.Join(s.Words(), `" "`) + `" -- ` + "\n"
		if got, err := parseSetup(quoted); err != nil || got != s {
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
	} {
		if s, err := parseSetup(row.line); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("parseSetup(%q) = %+v, %v; want an error that says %q", row.line, s, err, row.want)
		}
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
