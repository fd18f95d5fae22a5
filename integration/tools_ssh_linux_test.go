package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestToolsSSH logs in to a server that speaks first, and carries the payload there and
// back in one session.
func TestToolsSSH(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	netlab.Tool(t, "ssh")
	sshd := netlab.Tool(t, "sshd")
	if os.Getuid() != 0 {
		t.Skip("sshd logs nobody in unless root runs it")
	}
	os.MkdirAll("/run/sshd", 0o755) // where the package's service would have it
	dir := t.TempDir()
	key, config := filepath.Join(dir, "key"), filepath.Join(dir, "config")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("make key: %v, %s", err, out)
	}
	text := fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s.pub\nPidFile none\nStrictModes no\nUsePAM no\n", key, key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h := lab.Host(t, "ssh.example")
	h.Run("listening on", sshd, "-D", "-e", "-f", config, "-p", "22")
	secret, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	size := payloadSize() / 4
	want := payloadDigest(t, size)
	g := startGuest(t)
	g.want(fmt.Sprintf("umask 077; echo '%s' >/tmp/key; wc -l </tmp/key", strings.TrimSpace(string(secret))), fmt.Sprint(strings.Count(string(secret), "\n")))
	const ssh = "ssh -F none -i /tmp/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
	for _, f := range families {
		out := g.long(fmt.Sprintf("%s | %s -%d root@%s 'tee /dev/stderr 2>&1 >/dev/null' | sha256sum", payloadCommand(size), ssh, f, h.Name))
		if !strings.Contains(out, want) {
			t.Errorf("IPv%d: heard %s, want %s", f, out, want)
		}
	}
}
