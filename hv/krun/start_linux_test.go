//go:build cgo

package krun

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/vnet/link"
)

func TestStartCallsInOrder(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	root := testRoot(t)
	v := start(t, s.hypervisor(t), hv.Config{Name: "box", Root: root, NIC: &hv.NIC{MAC: []byte{2, 0x53, 0x4c, 0, 0, 7}, MTU: 9000}, CPUs: 2, MemoryMiB: 256})
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	s.checkContract(t)
	calls := s.calls(t)
	for i, want := range []string{
		"krun_has_feature 0",
		"krun_has_feature 1",
		"krun_init_log 2 2 2 1",
		"krun_get_max_vcpus",
		"krun_create_ctx",
		"krun_disable_implicit_vsock",
		"krun_disable_implicit_console",
		"krun_disable_implicit_init",
		"krun_set_vm_config 2 256",
		"krun_add_virtiofs3 /dev/root ",
		"krun_add_virtiofs3 root " + root + " 0 1",
		"krun_add_net_unixstream 02:53:4c:00:00:07 0x182 0",
		`krun_set_exec /sluice:machine "KRUN_INIT_PID1=1" "init=/sluice:machine" "sluice.root=virtiofs"`,
		"krun_add_virtio_console_multiport",
		"krun_add_console_port_tty 3 console",
		"krun_add_console_port_inout 3 sluice.agent",
		"krun_add_console_port_inout 3 sluice.status",
		"krun_start_enter",
	} {
		if i >= len(calls) || !strings.HasPrefix(calls[i], want) {
			t.Fatalf("call %d isn't %q in\n%s", i, want, strings.Join(calls, "\n"))
		}
	}
}

// TestOlderLibrary starts a guest with what libkrun 1.15 has, apart from a directory
// that is read-only: by vsock, with the library's own init and console.
func TestOlderLibrary(t *testing.T) {
	t.Parallel()
	s := buildStub(t, []string{
		"krun_has_feature", "krun_get_max_vcpus", "krun_disable_implicit_vsock", "krun_disable_implicit_console", "krun_disable_implicit_init",
		"krun_add_vsock", "krun_add_virtio_console_multiport", "krun_add_console_port_tty", "krun_add_console_port_inout",
	})
	v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t), NIC: &hv.NIC{}})
	agent := v.Agent()
	if agent == nil {
		t.Fatal("no agent")
	}
	defer agent.Close()
	boot(t, agent)
	s.checkContract(t)
	if !slices.ContainsFunc(s.calls(t), func(c string) bool { return strings.HasPrefix(c, "krun_add_vsock_port 1024") }) {
		t.Errorf("calls %q", s.calls(t))
	}
	// The stream's end is the guest's.
	agent.Close()
	waitFor(t, v)
}

// TestEveryFunctionFails lets each function fail in turn, through the real process:
// Start says which, and leaves nothing behind. Those that only some guests, or some
// libraries, have called are had called.
func TestEveryFunctionFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	image, kernel := filepath.Join(dir, "image"), filepath.Join(dir, "kernel")
	for path, text := range map[string][]byte{image: make([]byte, 4096), kernel: elfHead(ownMachine)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	onDirectory := hv.Config{Name: "fails", Root: testRoot(t), NIC: &hv.NIC{}}
	onDisk := hv.Config{Name: "fails", Disks: []hv.Disk{{Path: image, ReadOnly: true, Format: hv.Ext4}}, NIC: &hv.NIC{}}
	ownKernel := onDirectory
	ownKernel.Kernel = kernel
	noPorts := []string{"krun_add_console_port_inout"}
	for _, row := range []struct {
		function string
		cfg      hv.Config
		missing  []string // of the library
	}{
		{"krun_init_log", onDirectory, nil},
		{"krun_set_log_level", onDirectory, []string{"krun_init_log"}},
		{"krun_create_ctx", onDirectory, nil},
		{"krun_disable_implicit_vsock", onDirectory, nil},
		{"krun_disable_implicit_console", onDirectory, nil},
		{"krun_disable_implicit_init", onDirectory, nil},
		{"krun_set_vm_config", onDirectory, nil},
		{"krun_set_kernel", ownKernel, nil},
		{"krun_add_virtiofs3", onDirectory, nil},
		{"krun_set_root", onDisk, []string{"krun_add_virtiofs3"}},
		{"krun_add_disk", onDisk, nil},
		{"krun_add_net_unixstream", onDirectory, nil},
		{"krun_set_exec", onDirectory, nil},
		{"krun_append_kernel_cmdline", onDirectory, []string{"krun_set_exec"}},
		{"krun_add_vsock", onDirectory, noPorts},
		{"krun_add_vsock_port", onDirectory, noPorts},
		{"krun_add_virtio_console_multiport", onDirectory, nil},
		{"krun_add_console_port_tty", onDirectory, nil},
		{"krun_add_console_port_inout", onDirectory, nil},
		{"krun_start_enter", onDirectory, nil},
		{"krun_start_enter", onDirectory, noPorts},
	} {
		t.Run(row.function, func(t *testing.T) {
			t.Parallel()
			s := buildStub(t, row.missing, line("fail %s %d", row.function, int(syscall.ENOSPC)))
			_, err := s.hypervisor(t).Start(t.Context(), row.cfg)
			if err == nil || !strings.Contains(err.Error(), row.function) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%v; want an error that names the function and its number", err)
			}
			s.checkContract(t)
			calls := s.calls(t)
			if last := calls[len(calls)-1]; !strings.HasPrefix(last, row.function) {
				t.Errorf("%s was called after the failure", last)
			}
		})
	}
}

// TestEveryFunctionDies kills the process in each function in turn.
func TestEveryFunctionDies(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	for _, name := range []string{"krun_has_feature", "krun_create_ctx", "krun_add_net_unixstream", "krun_start_enter"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := buildStub(t, nil, "die "+name)
			_, err := s.hypervisor(t).Start(t.Context(), hv.Config{Name: "dies", Root: root, NIC: &hv.NIC{}})
			if err == nil || !strings.Contains(err.Error(), "ended") {
				t.Errorf("%v; want an error that says that the process ended", err)
			}
		})
	}
}

// TestEveryFunctionMissing leaves each function out in turn: what remains starts a
// guest, or is refused with a fix.
func TestEveryFunctionMissing(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	for name, want := range map[string]string{ // what Start says; "" if the guest starts
		"krun_has_feature": "", "krun_init_log": "", "krun_set_log_level": "", "krun_get_max_vcpus": "",
		"krun_disable_implicit_vsock": "", "krun_disable_implicit_init": "", "krun_add_vsock": "", "krun_add_vsock_port": "",
		"krun_set_root": "", "krun_add_disk": "", "krun_set_kernel": "", "krun_disable_implicit_console": "",
		"krun_add_virtio_console_multiport": "", "krun_add_console_port_tty": "", "krun_add_console_port_inout": "", "krun_set_exec": "",
		"krun_create_ctx":         "no krun_create_ctx",
		"krun_set_vm_config":      "no krun_set_vm_config",
		"krun_add_net_unixstream": "no krun_add_net_unixstream",
		"krun_start_enter":        "no krun_start_enter",
		"krun_add_virtiofs3":      "not the guest's to change",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := buildStub(t, []string{name})
			v, err := s.hypervisor(t).Start(t.Context(), hv.Config{Name: "lacks", Root: root, NIC: &hv.NIC{}})
			if want != "" {
				var library *libraryError
				if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &library) || library.fix == "" {
					t.Errorf("%v; want an errors.ErrUnsupported with a fix that says %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Close(); err != nil {
				t.Error(err)
			}
			s.checkContract(t)
		})
	}
}

// A guest never gets the host's network: neither from a library that can't be kept
// from it, nor without a card.
func TestRefusesTheHostsNetwork(t *testing.T) {
	t.Parallel()
	root := testRoot(t)
	for _, row := range []struct {
		name string
		stub stub
		nic  *hv.NIC
		want string
	}{
		{"built without", buildStub(t, nil, "feature 0 0"), &hv.NIC{}, "without network devices"},
		{"unknown", buildStub(t, nil, "feature 0 -22"), &hv.NIC{}, "without network devices"},
		{"no card", buildStub(t, []string{"krun_disable_implicit_vsock"}), nil, "the host's network"},
	} {
		_, err := row.stub.hypervisor(t).Start(t.Context(), hv.Config{Name: "x", Root: root, NIC: row.nic})
		if err == nil || !strings.Contains(err.Error(), row.want) || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v; want %q", row.name, err, row.want)
		}
		if text, _ := os.ReadFile(row.stub.log); strings.Contains(string(text), "krun_start_enter") {
			t.Errorf("%s: a machine was started", row.name)
		}
	}
	s := buildStub(t, nil)
	v := start(t, s.hypervisor(t), hv.Config{Root: root})
	if nic, _ := v.NIC(); nic != nil {
		t.Error("a guest without a card has one")
	}
	s.checkContract(t)
}

// TestStartErrors looks at what is wrong before a library is even opened.
func TestStartErrors(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	root := testRoot(t)
	notThere := filepath.Join(t.TempDir(), "nowhere")
	for _, row := range []struct {
		name   string
		change func(*Hypervisor, *hv.Config)
		want   string
		host   bool // the host is to blame: errors.ErrUnsupported
	}{
		{"no KVM", func(h *Hypervisor, _ *hv.Config) { h.kvm = notThere }, notThere, true},
		{"no library", func(h *Hypervisor, _ *hv.Config) { h.libraries = []string{notThere} }, "can't be opened", true},
		{"no agent", func(h *Hypervisor, _ *hv.Config) {
			h.agent = func(context.Context) (string, error) { return "", io.ErrUnexpectedEOF }
		}, "agent: unexpected EOF", false},
		{"an agent that is gone", func(h *Hypervisor, _ *hv.Config) {
			h.agent = func(context.Context) (string, error) { return notThere, nil }
		}, notThere, false},
		{"no kernel", func(_ *Hypervisor, c *hv.Config) { c.Kernel = notThere }, notThere, false},
		{"no root", func(_ *Hypervisor, c *hv.Config) { c.Root = "" }, "needs an image", true},
		{"a root that is gone", func(_ *Hypervisor, c *hv.Config) { c.Root = notThere }, "krun_add_virtiofs3", false},
		{"a disk that is gone", func(_ *Hypervisor, c *hv.Config) {
			c.Root, c.Disks = "", []hv.Disk{{Path: notThere, ReadOnly: true, Format: hv.Ext4}}
		}, "krun_add_disk: no such file", false},
		{"too many processors", func(_ *Hypervisor, c *hv.Config) { c.CPUs = 99 }, "KVM's 8", false},
	} {
		h, cfg := s.hypervisor(t), hv.Config{Name: "x", Root: root}
		row.change(h, &cfg)
		_, err := h.Start(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), row.want) || errors.Is(err, errors.ErrUnsupported) != row.host {
			t.Errorf("%s: %v; want %q, unsupported %t", row.name, err, row.want, row.host)
		}
	}
}

// A guest whose process 1 gives up, or never comes, is an error of Start's that
// says what it told.
func TestBootFails(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.hypervisor(t).Start(t.Context(), hv.Config{Name: "x", Disks: []hv.Disk{{Path: disk, ReadOnly: true, Format: hv.Ext4}}})
	if err == nil || !strings.Contains(err.Error(), "process 1 is told") {
		t.Errorf("%v; want what process 1 told", err)
	}

	s = buildStub(t, nil, "guest /nowhere")
	_, err = s.hypervisor(t).Start(t.Context(), hv.Config{Name: "x", Root: testRoot(t)})
	if err == nil || !strings.Contains(err.Error(), "did not find the agent") {
		t.Errorf("%v; want the meaning of 127", err)
	}
}

// A start that hangs ends with its context.
func TestStartIsCancelled(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil, "hang 1")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := s.hypervisor(t).Start(ctx, hv.Config{Name: "x", Root: testRoot(t)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// What libkrun logs goes to the logger, what the guest prints to the console.
func TestLogAndConsole(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	var log, console shared
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t), Console: &console, Logger: logger})
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if got := console.String(); got != hvtest.Greeting {
		t.Errorf("the console has %q", got)
	}
	for _, want := range []string{"the guest starts", "the guest is up"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log\n%s", want, log.String())
		}
	}
}

// A shared is a buffer of several goroutines.
type shared struct {
	mu  sync.Mutex // guards the following field
	buf bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// The card's other end carries frames both ways: the guest answers who asks for its
// address.
func TestCardCarriesFrames(t *testing.T) {
	t.Parallel()
	s := buildStub(t, nil)
	mac := []byte{2, 0x53, 0x4c, 0, 0, 9}
	v := start(t, s.hypervisor(t), hv.Config{Root: testRoot(t), NIC: &hv.NIC{MAC: mac}})
	agent := v.Agent()
	defer agent.Close()
	boot(t, agent)
	file, format := v.NIC()
	card, err := link.Open(file, format)
	if err != nil || format != link.Stream {
		t.Fatalf("%v, %v", format, err)
	}
	defer card.Close()
	stop := time.AfterFunc(time.Minute, func() { card.Close() })
	defer stop.Stop()

	ask := slices.Concat(
		bytes.Repeat([]byte{0xff}, 6), []byte{2, 0, 0, 0, 0, 1, 8, 6}, // Ethernet: to all, ARP
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, // IPv4 on Ethernet, request
		[]byte{2, 0, 0, 0, 0, 1, 172, 16, 0, 1}, []byte{0, 0, 0, 0, 0, 0, 172, 16, 0, 2},
		make([]byte, 18))
	if _, err := card.WriteFrames([]link.Frame{{Data: ask}}); err != nil {
		t.Fatal(err)
	}
	for { // it says other things too
		frames := []link.Frame{{Data: make([]byte, 0, link.MaxFrame)}}
		if _, err := card.ReadFrames(frames); err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if f := frames[0].Data; len(f) >= 42 && bytes.Equal(f[12:22], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}) {
			if !bytes.Equal(f[22:28], mac) || !bytes.Equal(f[28:32], []byte{172, 16, 0, 2}) {
				t.Errorf("answer % x", f)
			}
			return
		}
	}
}

// waitFor waits for a guest's end.
func waitFor(t *testing.T, v hv.VM) hv.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := v.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}
