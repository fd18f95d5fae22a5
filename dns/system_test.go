package dns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestResolvConfReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, uplinks := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "uplinks")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host := resolvConf{path: path, uplinks: uplinks}
	load := func() upstreams {
		t.Helper()
		u, err := host.load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	if _, err := host.load(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	write(path, "nameserver 10.0.0.1\n")
	if got := serversOf(load()); got != "10.0.0.1:53" {
		t.Errorf("first: got %s", got)
	}
	write(path, "nameserver 10.0.0.2\n") // same size, same second
	if got := serversOf(load()); got != "10.0.0.2:53" {
		t.Errorf("written in place: got %s", got)
	}
	other := filepath.Join(dir, "resolv.conf.new")
	write(other, "nameserver 10.0.0.3\n")
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if got := serversOf(load()); got != "10.0.0.3:53" {
		t.Errorf("replaced by rename: got %s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(other, "nameserver 10.0.0.4\n")
	if err := os.Symlink(other, path); err != nil {
		t.Fatal(err)
	}
	if got := serversOf(load()); got != "10.0.0.4:53" {
		t.Errorf("replaced by a link: got %s", got)
	}

	// A stub stays the one to ask, but what changes behind it is noticed.
	write(path, "nameserver 127.0.0.53\n")
	write(uplinks, "nameserver 10.0.0.5\n")
	before := load()
	if got := serversOf(before); got != "127.0.0.53:53" {
		t.Errorf("stub: got %s", got)
	}
	if !before.equal(load()) {
		t.Error("nothing changed behind the stub, but it seems so")
	}
	write(uplinks, "nameserver 10.0.0.6\n")
	if before.equal(load()) {
		t.Error("the change behind the stub wasn't noticed")
	}
	write(path, "nameserver 10.0.0.5\n")
	if load().beyond != "" {
		t.Error("without a stub nothing is behind it")
	}
}

func TestScutil(t *testing.T) {
	t.Parallel()
	errNoTool := errors.New("no such tool")
	for _, tt := range []struct {
		name, output string
		fail         error
		want         string
		err          error
	}{
		{"VPN", scutilVPN, nil, "192.168.1.1:53 [fe80::1%en0]:53; corp.example=10.8.0.1:53 10.8.0.2:53; dev.test=127.0.0.1:5353", nil},
		{"no network", "No DNS configuration available\n", nil, "", errNoResolver},
		{"no tool", "", errNoTool, "", errNoTool},
	} {
		host := scutil{run: func(context.Context) ([]byte, error) { return []byte(tt.output), tt.fail }}
		u, err := host.load(t.Context())
		if got := serversOf(u); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %s, %v, want %s, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}
