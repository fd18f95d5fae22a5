package guest

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteFilesReplacesLinks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	others := filepath.Join(root, "others")
	if err := os.WriteFile(others, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{resolvConf, hostsFile} {
		if err := os.Symlink(others, root+name); err != nil {
			t.Fatal(err)
		}
	}
	n := &Network{Nameservers: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	if err := writeFiles(root, "", n); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(others); string(text) != "mine" {
		t.Errorf("a file that is another's has %q", text)
	}
	if text, _ := os.ReadFile(root + resolvConf); string(text) != "nameserver 192.0.2.1\n" {
		t.Errorf("resolv.conf is %q", text)
	}
}

func TestWriteFilesInPlace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := writeFiles(root, "box", nil); err != nil { // there is no /etc yet
		t.Fatal(err)
	}
	before, err := os.Stat(root + hostsFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFiles(root, "ox", nil); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(root + hostsFile)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced (%v); it may be a mount", err)
	}
	text, _ := os.ReadFile(root + hostsFile)
	if !strings.HasSuffix(string(text), "127.0.1.1\tox\n") {
		t.Errorf("hosts is %q; want only the shorter text", text)
	}
	if text, _ := os.ReadFile(root + hostnameFile); string(text) != "ox\n" {
		t.Errorf("hostname is %q; want the guest's", text)
	}
	if text, _ := os.ReadFile(root + resolvConf); !strings.HasPrefix(string(text), "#") {
		t.Errorf("resolv.conf without a network is %q; want a comment", text)
	}
}
