package namespace

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// unusualEnv names the directory with unusual mounts below, in the process that
// sees them.
const unusualEnv = "SLUICE_TEST_UNUSUAL"

// makeUnusual mounts, in the directory $1, what hosts have.
const makeUnusual = `set -e
cd "$1"
mkdir plain 'a b:c,d\e' shadowed proc once lower upper work merged upper2 work2 twice
echo plain > plain/f
mount -t tmpfs one 'a b:c,d\e'; echo odd > 'a b:c,d\e/f'
mkdir 'a b:c,d\e/deep'; mount -t tmpfs two 'a b:c,d\e/deep'; echo deep > 'a b:c,d\e/deep/f'; ln -s f 'a b:c,d\e/deep/link'
mount -t tmpfs one shadowed; echo old > shadowed/f; mount -t tmpfs two shadowed; echo new > shadowed/f
echo inside > plain/source; : > file; mount --bind plain/source file
: > socket; mount --bind s.sock socket
mount -t tmpfs three upper; mkdir upper/u upper/w upper/u2 upper/w2; echo lower > lower/f
mount -t overlay o -o "lowerdir=lower,upperdir=upper/u,workdir=upper/w$2" merged
mount -t overlay o -o "lowerdir=merged,upperdir=upper/u2,workdir=upper/w2$2" twice
mount -t sysfs s proc || mount --bind /sys proc || mount -t tmpfs s proc
shift 2; exec "$@"`

func TestUnusualMounts(t *testing.T) {
	t.Parallel()
	dir := visibleDir(t)
	l := listen(t, "unix", shortPath(t, dir, "s.sock"))
	executable, err := New().sealedExecutable()
	if err != nil {
		t.Fatal(err)
	}
	args, options := []string{"--mount"}, ""
	if os.Geteuid() != 0 {
		args, options = []string{"--user", "--map-root-user", "--mount"}, ",userxattr"
	}
	args = append(args, "sh", "-c", makeUnusual, "sh", dir, options,
		"/proc/self/fd/3", "-test.v", "-test.run=^TestUnderUnusualMounts$")
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.ExtraFiles = []*os.File{executable}
	cmd.Env = append(os.Environ(), unusualEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnderUnusualMounts")) {
		t.Errorf("%v\n%s", err, out)
	}
	if l.reached.Load() != 0 {
		t.Error("a socket behind a mount was reached")
	}
}

// TestUnderUnusualMounts is run by TestUnusualMounts.
func TestUnderUnusualMounts(t *testing.T) {
	dir := os.Getenv(unusualEnv)
	if dir == "" {
		return
	}
	var log bytes.Buffer
	cfg := hv.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	out, _ := run(t, cfg, fmt.Sprintf("cd %q && cat plain/f 'a b:c,d\\e/f' 'a b:c,d\\e/deep/link' shadowed/f file merged/f lower/f; echo; ls proc twice socket | grep -v :; touch plain/x merged/x file && echo written", dir))
	if !strings.HasPrefix(out, "plain\nodd\ndeep\nnew\ninside\nlower\nlower\n\n") {
		t.Errorf("the guest sees %q", out)
	}
	if strings.Contains(out, "kernel") || strings.Contains(out, "written") || strings.Contains(out, "f\n\n") {
		t.Errorf("the guest sees or does too much: %q", out)
	}
	// A third overlay upon two is more than the kernel takes: not shown, said.
	if !strings.Contains(log.String(), filepath.Join(dir, "twice")) {
		t.Errorf("the log doesn't say that an overlay upon two is left out:\n%s", log.String())
	}
	path := filepath.Join(dir, "socket")
	if result := inside(t, hv.Config{}, "connect", path)[path]; result == "done" {
		t.Error("the guest reached a socket that is a mount")
	}
}

func TestHostViewIsSplitAtMounts(t *testing.T) {
	t.Parallel()
	v := newHostView([]mount{{"/", "ext4"}, {"/proc", "proc"}, {"/home/a/b", "ext4"}, {"/srv", "xfs"}, {"/srv", "tmpfs"}}, nil)
	var split []string
	for dir := range v.split {
		split = append(split, dir)
	}
	slices.Sort(split)
	if want := []string{"/", "/home", "/home/a"}; !slices.Equal(split, want) {
		t.Errorf("split are %v; want %v", split, want)
	}
	if v.types["/srv"] != "tmpfs" {
		t.Errorf("type of /srv is %q; want that of the later mount", v.types["/srv"])
	}
}

func TestResolverFilesArePrivate(t *testing.T) {
	t.Parallel()
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	out, _ := run(t, hv.Config{}, "cat /etc/resolv.conf; echo 'nameserver 192.0.2.1' > /etc/resolv.conf; cat /etc/resolv.conf; cat /etc/hostname; rm /etc/hosts; mv /etc/passwd /etc/p")
	if !strings.HasPrefix(out, "# no nameserver: this guest has no network\nnameserver 192.0.2.1\n") || strings.Count(out, "cannot") != 2 {
		t.Errorf("got %q; want private files in a read-only directory", out)
	}
	if after, _ := os.ReadFile("/etc/resolv.conf"); !bytes.Equal(before, after) {
		t.Errorf("the host's resolv.conf was %q and is %q", before, after)
	}
}
