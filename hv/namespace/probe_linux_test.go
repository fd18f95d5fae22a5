package namespace

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
)

func TestProbeStartsAGuest(t *testing.T) {
	t.Parallel()
	if got := New().Probe(t.Context()); !got.Usable || got.Reason == "" || got.Fix != "" {
		t.Errorf("Probe() = %+v; want usable", got)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	h := New()
	h.tun = filepath.Join(t.TempDir(), "tun")
	got := h.Probe(t.Context())
	if got.Usable || !strings.Contains(got.Reason, h.tun) || strings.Contains(got.Reason, "\n") || got.Fix == "" {
		t.Errorf("Probe() without a clone device = %+v; want the reason and a fix", got)
	}
	_, err := h.Start(t.Context(), hv.Config{Name: "test", NIC: &hv.NIC{}})
	if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("Start = %v; want it to wrap ErrUnsupported and the cause", err)
	}
	// A guest without a card needs none.
	vm, err := h.Start(t.Context(), hv.Config{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	vm.Close()
}

func TestExplain(t *testing.T) {
	t.Parallel()
	const filesystems = "nodev\ttmpfs\nnodev\toverlay\n\text4\n"
	for _, row := range []struct {
		name  string
		files map[string]string // below the root; "/tun" is there unless it is ""
		uid   int
		cause error
		want  string // the fix; "" is none
	}{
		{"all is well", nil, 1000, unix.EIO, ""},
		{"no clone device", map[string]string{"/tun": ""}, 0, unix.ENOENT, "sudo modprobe tun"},
		{"no clone device in a container", map[string]string{"/tun": "", "/.dockerenv": "."}, 0, unix.ENOENT, "run the container with --device /tun"},
		{"AppArmor", map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, 1000, unix.EPERM, "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"AppArmor lets root", map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, 0, unix.EPERM, ""},
		{"AppArmor off", map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n"}, 1000, unix.EPERM, ""},
		{"old Debian", map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, 1000, unix.EPERM, "sudo sysctl kernel.unprivileged_userns_clone=1"},
		{"no user namespaces", map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}, 0, unix.ENOSPC, "sudo sysctl user.max_user_namespaces=15000"},
		{"no executable memfds", map[string]string{"/proc/sys/vm/memfd_noexec": "2\n"}, 0, unix.EACCES, "sudo sysctl vm.memfd_noexec=1"},
		{"no overlays", map[string]string{"/proc/filesystems": "nodev\ttmpfs\n"}, 0, unix.ENODEV, "sudo modprobe overlay"},
		{"overlays", map[string]string{"/proc/filesystems": filesystems}, 0, unix.ENODEV, ""},
		{"container", map[string]string{"/.dockerenv": "."}, 0, unix.EPERM, "run the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"},
		{"container, other error", map[string]string{"/run/.containerenv": "."}, 0, unix.EIO, ""},
	} {
		root := t.TempDir()
		files := map[string]string{"/tun": "."}
		for name, text := range row.files {
			files[name] = text
		}
		for name, text := range files {
			if text == "" {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(root+name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err := host{root: root, tun: "/tun", uid: row.uid}.explain(row.cause)
		var unusable *unusableError
		got := ""
		if errors.As(err, &unusable) {
			got = unusable.fix
		}
		if got != row.want || !errors.Is(err, row.cause) || errors.Is(err, errors.ErrUnsupported) != (row.want != "") {
			t.Errorf("%s: explain(%v) = %v with fix %q; want %q", row.name, row.cause, err, got, row.want)
		}
	}
}
