package qemu

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/image/disk"
)

// What a command finds is what a machine has: mounts, devices, limits, a clock that
// runs like the host's, and the disk's owners and attributes.
func TestMachine(t *testing.T) {
	t.Parallel()
	_, client := boot(t, emulated(t), hv.Config{NIC: &hv.NIC{MTU: 9000}, Disks: busybox(t)})
	for _, row := range []struct{ command, want string }{
		{"mount | cut -d' ' -f3,5 | sort | tr '\n' ';'",
			"/ overlay;/dev devtmpfs;/dev/pts devpts;/dev/shm tmpfs;/proc proc;/run tmpfs;/sys sysfs;/sys/fs/cgroup cgroup2;"},
		{"touch /bin/new /new && echo written", "written"},
		{"stat -c '%a %F' /tmp /dev/shm", "1777 directory"},
		{"readlink /dev/fd; echo x >/dev/null; head -c1 /dev/urandom | wc -c", "/proc/self/fd\n1"},
		{"ulimit -n; ulimit -Hn", "1024\n524288"},
		{"cat /sys/class/net/eth0/mtu", "9000"},
		{"ls /modules /lower /upper 2>&1 | grep -c 'No such'", "3"},
		{"hostname", "test"},
		{"cat /proc/1/comm", "sluice:machine"},
		{"ls -l /proc/1/fd | grep -c vport", "2"}, // and no command has one
		{"ls -l /proc/self/fd | grep -c vport || true", "0"},
		{"dmesg | grep -ciE 'error|fail|warn' || true", ""},
	} {
		if got := strings.TrimSpace(shell(t, client, row.command)); row.want != "" && got != strings.TrimSpace(row.want) && !strings.HasPrefix(got, row.want) {
			t.Errorf("%s:\n%s\nwant:\n%s", row.command, got, row.want)
		} else if row.want == "" && got != "0" {
			t.Logf("%s: %s", row.command, got)
		}
	}
	// However long a command takes here, what the guest's clock counts between two of
	// them is between what the host's does, the two included and not.
	uptime := func() (at time.Duration, before, after time.Time) {
		before = time.Now()
		seconds, _, _ := strings.Cut(shell(t, client, "cat /proc/uptime"), " ")
		after = time.Now()
		at, err := time.ParseDuration(seconds + "s")
		if err != nil {
			t.Fatal(err)
		}
		return at, before, after
	}
	begun, early, earlyEnd := uptime()
	shell(t, client, "sleep 2")
	ended, late, lateEnd := uptime()
	const grain = 100 * time.Millisecond
	if took := ended - begun; took < late.Sub(earlyEnd)-grain || took > lateEnd.Sub(early)+grain {
		t.Errorf("the guest counts %v; the host between %v and %v", took, late.Sub(earlyEnd), lateEnd.Sub(early))
	}
	date := strings.TrimSpace(shell(t, client, "date +%s"))
	if off := time.Since(parseUnix(t, date)); off.Abs() > time.Minute {
		t.Errorf("the guest's clock is off by %v", off)
	}
}

// Directories in memory are laid over the root as they were asked for; the host's can't
// be.
func TestMounts(t *testing.T) {
	t.Parallel()
	h := emulated(t)
	_, client := boot(t, h, hv.Config{Disks: busybox(t), Mounts: []hv.Mount{
		{Target: "/srv", ReadOnly: true}, {Target: "/new dir/deep", SizeMiB: 2, NoExec: true},
	}})
	for _, row := range []struct{ command, want string }{
		{"stat -f -c %T /srv '/new dir/deep'; stat -c %a '/new dir/deep'", "tmpfs\ntmpfs\n1777"},
		{"{ touch /srv/x || true; }", "touch: /srv/x: Read-only file system"},
		{"cd '/new dir/deep' && echo echo executed >x && chmod 755 x && { ./x || true; }", "/bin/sh: ./x: Permission denied"},
		{"df -m '/new dir/deep' | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2", "2"},
	} {
		if got := strings.TrimSpace(shell(t, client, row.command)); got != row.want {
			t.Errorf("%s:\n%s\nwant:\n%s", row.command, got, row.want)
		}
	}
	_, err := h.Start(t.Context(), hv.Config{Name: "bind", Disks: busybox(t), Mounts: []hv.Mount{{Target: "/mnt", Source: "/etc"}}})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Start with a path of the host's = %v; want that it can't be", err)
	}
}

// parseUnix returns the time that date +%s has printed.
func parseUnix(t *testing.T, text string) time.Time {
	t.Helper()
	var seconds int64
	if _, err := fmt.Sscan(text, &seconds); err != nil {
		t.Fatalf("date printed %q", text)
	}
	return time.Unix(seconds, 0)
}

// makeDisk makes a disk with busybox and more.
func makeDisk(t *testing.T, headers ...tar.Header) hv.Disk {
	t.Helper()
	base, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	all := append(headers, tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(base))})
	for _, name := range []string{"sh", "ls", "cat", "stat", "mount", "grep", "dd", "sync", "echo", "readlink", "poweroff", "mkdir", "mknod", "df"} {
		all = append(all, tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"})
	}
	for _, h := range all {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write(base)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.FromTar(&b, f); err != nil {
		t.Fatal(err)
	}
	return hv.Disk{Path: f.Name(), ReadOnly: true, Format: hv.Ext4}
}

// An image whose directories lead elsewhere becomes a machine like any other.
func TestHostileImage(t *testing.T) {
	t.Parallel()
	root := makeDisk(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711, Uid: 5, Gid: 6},
		tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "proc", Linkname: "/etc"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "sys", Linkname: "../../../../lower"},
		tar.Header{Typeflag: tar.TypeReg, Name: "run"},
		tar.Header{Typeflag: tar.TypeDir, Name: "dev/", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "dev/fd", Linkname: "/etc/fd"},
	)
	_, client := boot(t, emulated(t), hv.Config{Disks: []hv.Disk{root}})
	for _, row := range []struct{ command, want string }{
		{"ls -d /proc/self /sys/class /run /etc/*; true", "/proc/self"},
		{"stat -c '%F %a' /proc /run /tmp /dev", "directory 555\ndirectory 755\ndirectory 1777\ndirectory 755"},
		{"stat -c '%a %u %g' /", "711 5 6"},
		{"readlink /dev/fd", "/proc/self/fd"},
	} {
		if got := shell(t, client, row.command); !strings.Contains(got, row.want) {
			t.Errorf("%s:\n%s\nwant:\n%s", row.command, got, row.want)
		}
	}
}

// A disk that is read-only stays as it is; what is written to the upper disk is
// there the next time.
func TestDisks(t *testing.T) {
	t.Parallel()
	h := emulated(t)
	root := makeDisk(t)
	before := sum(t, root.Path)
	upper := filepath.Join(t.TempDir(), "upper")
	if err := disk.Upper(upper, 512); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("raw!"), 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	disks := []hv.Disk{root, {Path: upper, Format: hv.Ext4}, {Path: raw, ReadOnly: true}}
	vm, client := boot(t, h, hv.Config{Disks: disks})
	shell(t, client, "echo kept >/kept && dd if=/dev/zero of=/large bs=1M count=20 2>/dev/null")
	for _, name := range []string{"root", "disk2"} {
		got := shell(t, client, "for d in /sys/class/block/*; do [ $(cat $d/serial) = "+name+" ] && dd if=/dev/zero of=/dev/${d##*/} count=1 conv=fsync; done 2>&1; true")
		if !strings.Contains(got, "not permitted") && !strings.Contains(got, "rror") {
			t.Errorf("a write to %s: %q", name, got)
		}
	}
	if got := shell(t, client, "for d in /sys/class/block/*; do [ $(cat $d/serial) = disk2 ] && dd if=/dev/${d##*/} bs=4 count=1 2>/dev/null; done; true"); got != "raw!" {
		t.Errorf("the raw disk has %q", got)
	}
	if err := client.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, vm); exit != (hv.Exit{}) {
		t.Errorf("Wait = %+v; want success", exit)
	}
	if after := sum(t, root.Path); after != before {
		t.Error("the root's disk was changed")
	}
	_, client = boot(t, h, hv.Config{Disks: disks})
	if got := shell(t, client, "cat /kept; ls -s /large"); !strings.HasPrefix(got, "kept\n") {
		t.Errorf("the upper disk has %q", got)
	}
}

// A guest whose writes the host's disk has no room for gets errors and goes on: nobody
// is there to tell a machine that halts to continue.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	h := emulated(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Skip(err) // no root
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	upper := filepath.Join(dir, "upper")
	if err := disk.Upper(upper, 512); err != nil {
		t.Fatal(err)
	}
	_, client := boot(t, h, hv.Config{Disks: append(busybox(t), hv.Disk{Path: upper, Format: hv.Ext4})})
	stuck := time.AfterFunc(time.Minute, func() {
		t.Error("the guest has halted")
		client.Close()
	})
	defer stuck.Stop()
	if got := shell(t, client, "dd if=/dev/zero of=/big bs=1M count=100 conv=fsync || echo failed; cat /bin/busybox | wc -c"); !strings.Contains(got, "failed") {
		t.Errorf("100 MB fit into 40: %q", got)
	}
}

// sum returns a file's checksum.
func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// The other board boots the same kernel, and two processors are two.
func TestBoards(t *testing.T) {
	t.Parallel()
	h := emulated(t)
	h.cfg.board = &q35
	_, client := boot(t, h, hv.Config{CPUs: 2, NIC: &hv.NIC{}, Disks: busybox(t)})
	if got := strings.TrimSpace(shell(t, client, "nproc; ls /sys/class/net | grep -c eth0")); got != "2\n1" {
		t.Errorf("it has %q; want two processors and a card", got)
	}
	if exit, err := client.Start(t.Context(), guest.Command{Args: []string{"/none"}}); err == nil {
		t.Errorf("a program that isn't there: %+v", exit)
	}
}
