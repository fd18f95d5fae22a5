package namespace

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// bootGuest starts a guest and boots it.
func bootGuest(t *testing.T, cfg hv.Config, b guest.Bootstrap) *guest.Client {
	t.Helper()
	cfg.Name = "test"
	vm, err := New().Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	client := guest.NewClient(vm.Agent())
	t.Cleanup(func() { client.Close() })
	if err := client.Boot(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return client
}

// output runs a command and returns what it writes to its standard output, and
// what to its error.
func output(t *testing.T, client *guest.Client, c guest.Command) string {
	t.Helper()
	p, err := client.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	out, err := io.ReadAll(p.Stdout())
	if err != nil {
		t.Fatal(err)
	}
	errs, err := io.ReadAll(p.Stderr())
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + string(errs)
}

// TestUsers runs commands as the guest's other users, who have nothing of root.
func TestUsers(t *testing.T) {
	t.Parallel()
	client := bootGuest(t, hv.Config{}, guest.Bootstrap{})
	if ids := strings.Fields(output(t, client, guest.Command{Args: []string{"cat", "/proc/self/uid_map"}})); ids[2] == "1" {
		// A guest with one user id says so.
		_, err := client.Start(t.Context(), guest.Command{Args: []string{"true"}, User: "daemon"})
		var failure *guest.StartError
		if !errors.As(err, &failure) || failure.Code != guest.CodeRefused || !strings.Contains(failure.Message, "or only one") {
			t.Errorf("another user where there is one: %v", err)
		}
		return
	}
	const line = "id -u; id -g; id -G; echo $HOME $USER; grep CapEff /proc/self/status; (echo x > /etc/hosts) 2>/dev/null || echo denied"
	for _, row := range []struct {
		user string
		tty  bool
		want string
	}{
		{"daemon", false, "1\n1\n1\n/usr/sbin daemon\nCapEff:\t0000000000000000\ndenied\n"},
		{"1", false, "1\n1\n1\n/usr/sbin daemon\nCapEff:\t0000000000000000\ndenied\n"},
		{"daemon:tty", false, "1\n5\n5\n/usr/sbin daemon\nCapEff:\t0000000000000000\ndenied\n"},
		{"4321:8765", false, "4321\n8765\n8765\n/\nCapEff:\t0000000000000000\ndenied\n"},
		{"daemon", true, "1\n1\n1\n/usr/sbin daemon\nCapEff:\t0000000000000000\ndenied\n"},
	} {
		c := guest.Command{Args: []string{"sh", "-c", line}, User: row.user}
		if row.tty {
			c.TTY = &guest.TTY{}
			c.Args[2] += "; test -O $(tty) && echo mine >/dev/tty"
			row.want += "mine\n"
		}
		if got := strings.ReplaceAll(output(t, client, c), "\r", ""); got != row.want {
			t.Errorf("as %s it wrote %q; want %q", row.user, got, row.want)
		}
	}
	// Who isn't root opens the standard files by their names, too.
	c := guest.Command{Args: []string{"sh", "-c", "echo out >/dev/stdout; echo err >/dev/stderr"}, User: "daemon"}
	if got := output(t, client, c); got != "out\nerr\n" {
		t.Errorf("by /dev/stdout and /dev/stderr: %q", got)
	}
}

// TestTrust adds a CA to what the guest trusts, and to nothing of the host's.
func TestTrust(t *testing.T) {
	t.Parallel()
	const bundle = "/etc/ssl/certs/ca-certificates.crt"
	before, err := os.ReadFile(bundle)
	if err != nil {
		t.Skip("the host has no bundle of Debian's")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	client := bootGuest(t, hv.Config{}, guest.Bootstrap{CA: []byte(ca)})
	if w := client.Warnings(); len(w) > 0 {
		t.Errorf("warnings %q: every store of this host can be changed in the guest", w)
	}
	got := output(t, client, guest.Command{Args: []string{"sh", "-c", "cat " + bundle + "; echo $SSL_CERT_FILE"}})
	if want := string(before) + ca + bundle + "\n"; got != want {
		t.Errorf("the guest's bundle has %d bytes, and ends %q; want the host's and the CA", len(got), got[max(0, len(got)-80):])
	}
	after, err := os.ReadFile(bundle)
	if err != nil || string(after) != string(before) {
		t.Errorf("the host's bundle has changed, %v", err)
	}
}
