package namespace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// TestFilesAreKept checks that what a guest wrote over its root, and took away, is so
// for the next one, that the root's own directory stays as it is, and that the files
// can be removed whoever they belong to.
func TestFilesAreKept(t *testing.T) {
	t.Parallel()
	root, files := guestRoot(t), filepath.Join(t.TempDir(), "files")
	if err := os.WriteFile(root+"/etc/gone", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := hv.Config{Root: root, Files: files}
	// The second chown needs an id that not every host has for its guests.
	const write = `set -e; cd /etc; echo kept > new; rm gone; chown 0:0 new; chown 7:7 new 2>/dev/null || :
		cat /bin/true > /bin/own; mkdir /closed; chown 8:8 /closed 2>/dev/null || :; chmod 0 /closed; cat new`
	if out, exit := run(t, cfg, write); out != "kept\n" || exit != (guest.Exit{}) {
		t.Fatalf("%q, %+v", out, exit)
	}
	out, _ := run(t, cfg, "cat /etc/new; stat -c %a /closed; cat /etc/gone; ls /bin/own")
	if !strings.HasPrefix(out, "kept\n0\n") || !strings.Contains(out, "/etc/gone: No such file") || !strings.HasSuffix(out, "/bin/own\n") {
		t.Errorf("the next guest finds %q", out)
	}
	for name, want := range map[string]bool{"/etc/gone": true, "/etc/new": false, "/closed": false} {
		if _, err := os.Stat(root + name); (err == nil) != want {
			t.Errorf("%s of the host: %v", name, err)
		}
	}
	if out, _ := run(t, hv.Config{Root: root}, "cat /etc/new"); !strings.Contains(out, "No such file") {
		t.Errorf("without Files: %q", out)
	}
	if err := New().RemoveFiles(t.Context(), files); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(files); !os.IsNotExist(err) {
		t.Errorf("they are there: %v", err)
	}
	if err := New().RemoveFiles(t.Context(), files); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}

// TestFilesAreWrong checks what can't be kept.
func TestFilesAreWrong(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		cfg  hv.Config
		want string
	}{
		{hv.Config{Files: t.TempDir()}, "nothing is written over them"},
		{hv.Config{Root: "/", Files: "/none/at/all"}, "no such file"},
	} {
		vm, err := New().Start(t.Context(), row.cfg)
		if err == nil {
			vm.Close()
		}
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: %v; want %s", row.cfg, err, row.want)
		}
	}
}
