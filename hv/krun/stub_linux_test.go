//go:build cgo

package krun

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/netlab"
)

// A stub is a library of testdata/libkrun for one test.
type stub struct {
	path string // of the library
	log  string // what it records
}

// buildStub builds a library without some functions, and configures it by more
// lines than those that every test needs.
func buildStub(t testing.TB, missing []string, lines ...string) stub {
	t.Helper()
	gcc := netlab.Tool(t, "gcc")
	dir := t.TempDir()
	s := stub{path: filepath.Join(dir, "libkrun.so.1"), log: filepath.Join(dir, "log")}
	args := []string{"-shared", "-fPIC", "-o", s.path, "testdata/libkrun/libkrun.c", "-ldl"}
	// What came after 1.18 isn't there unless a test asks for it.
	if !strings.Contains(strings.Join(missing, " "), "krun_set_exec") {
		missing = append(missing, "krun_append_kernel_cmdline")
	}
	for _, name := range missing {
		args = append(args, "-DWITHOUT_"+name)
	}
	if out, err := exec.CommandContext(t.Context(), gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	conf := append([]string{"log " + s.log, "guest " + self, "feature 0 1", "feature 1 1"}, lines...)
	if err := os.WriteFile(s.path+".conf", []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// calls returns what was recorded.
func (s stub) calls(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// checkContract fails the test if the library was used in a way that its header
// forbids.
func (s stub) checkContract(t testing.TB) {
	t.Helper()
	for _, call := range s.calls(t) {
		if strings.HasPrefix(call, "VIOLATION") {
			t.Errorf("%s, after\n%s", call, strings.Join(s.calls(t), "\n"))
		}
	}
}

// hypervisor returns one that uses the library.
func (s stub) hypervisor(t testing.TB) *Hypervisor {
	t.Helper()
	return &Hypervisor{
		libraries: []string{s.path},
		kvm:       os.DevNull, // the stub needs none
		cache:     t.TempDir(),
		agent:     ownAgent,
	}
}

// ownAgent is an agent's executable that nobody runs: the stub's guest is its own.
func ownAgent(context.Context) (string, error) { return os.Executable() }

// testRoot returns a directory with a shell and a few programs.
func testRoot(t testing.TB) string { return hvtest.Root(t, netlab.Tool(t, "busybox")) }

// A rooted hypervisor gives its guests a root, as its callers do.
type rooted struct {
	*Hypervisor
	root string
}

func (r rooted) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	if cfg.Root == "" && len(cfg.Disks) == 0 {
		cfg.Root = r.root
	}
	return r.Hypervisor.Start(ctx, cfg)
}

// start starts a guest that ends with the test.
func start(t testing.TB, h hv.Hypervisor, cfg hv.Config) hv.VM {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	v, err := h.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// line makes a line of configuration.
func line(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// boot boots the guest's agent, with a network.
func boot(t testing.TB, agent net.Conn) *guest.Client {
	t.Helper()
	client := guest.NewClient(agent)
	t.Cleanup(func() { client.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	network := &guest.Network{Addrs: []netip.Prefix{netip.MustParsePrefix("172.16.0.2/30")}}
	if err := client.Boot(ctx, guest.Bootstrap{Hostname: "test", Network: network}); err != nil {
		t.Fatalf("boot: %v", err)
	}
	return client
}
