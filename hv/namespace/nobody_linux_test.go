package namespace

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// visibleEnv names a directory that tests may make visible ones in, where the
// working directory can't be written.
const visibleEnv = "SLUICE_TEST_VISIBLE"

// nobody is the uid and gid of the tests without privilege.
const nobody = 65534

// TestAsNobody runs this package's other tests again without any privilege.
func TestAsNobody(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this run is without privilege already")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // TempDir is for its owner alone
		t.Fatal(err)
	}
	// Distributions let everyone open it; a container may not have a rule.
	tun := dir + "/tun"
	if err := unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tun, 0o666); err != nil {
		t.Fatal(err)
	}
	executable, err := New().sealedExecutable()
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range []struct{ name, subordinate, wrap string }{
		{"own id only", "", "env"},
		{"subordinate ids", fmt.Sprintf("%d:200000:65536\n", nobody), "env"},
		{"root of a user namespace", "", "unshare --user --map-root-user"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ids := filepath.Join(dir, fmt.Sprint("ids", i))
			if err := os.WriteFile(ids, []byte(row.subordinate), 0o644); err != nil {
				t.Fatal(err)
			}
			visible := visibleDir(t)
			if err := os.Chown(visible, nobody, nobody); err != nil {
				t.Fatal(err)
			}
			const script = `mount --bind "$1" /dev/net/tun && mount --bind "$2" /etc/subuid && mount --bind "$2" /etc/subgid &&
				exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all $3 "$4" -test.v -test.short -test.skip='^TestAsNobody$' -test.timeout=5m`
			cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", script, "sh", tun, ids, row.wrap, "/proc/self/fd/3")
			cmd.ExtraFiles = []*os.File{executable}
			cmd.Env = append(os.Environ(), visibleEnv+"="+visible, "HOME=/nonexistent", "XDG_RUNTIME_DIR=")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				t.Errorf("%v\n%s", err, out.Bytes())
			}
			for _, name := range []string{"TestConformance", "TestB01HostSocketsAreUnreachable", "TestKillLeavesNothing"} {
				if !bytes.Contains(out.Bytes(), []byte("--- PASS: "+name)) {
					t.Errorf("%s was not run:\n%s", name, out.Bytes())
				}
			}
		})
	}
}
