package qemu

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/image/disk"
	"github.com/sluicenet/sluice/internal/netlab"
)

// emulated returns a Hypervisor whose guests' processors are emulated, which works
// everywhere; or skips where QEMU or a kernel is missing.
func emulated(t testing.TB) *Hypervisor {
	t.Helper()
	return hypervisor(t, Config{Accelerators: []string{tcg}, Memory: t.TempDir()})
}

// hypervisor returns a Hypervisor, or skips where it lacks something.
func hypervisor(t testing.TB, cfg Config) *Hypervisor {
	t.Helper()
	h := New(cfg)
	if _, err := h.program(); err != nil {
		netlab.Skip(t, "qemu", err.Error())
	}
	if _, err := h.kernel(""); err != nil {
		netlab.Skip(t, "qemu", err.Error())
	}
	return h
}

// busyboxRoot returns a disk with busybox under all of its names. It is made once
// for all tests.
var busyboxRoot = sync.OnceValues(func() (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	names, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return "", err
	}
	f, err := os.Create(filepath.Join(sharedDir, "busybox"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeBusybox(w, busybox, strings.Fields(string(names)))) }()
	return f.Name(), disk.FromTar(r, f)
})

// writeBusybox writes an archive with busybox under its names.
func writeBusybox(w io.Writer, busybox string, names []string) error {
	out := tar.NewWriter(w)
	text, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(text))}); err != nil {
		return err
	}
	if _, err := out.Write(text); err != nil {
		return err
	}
	for _, name := range names {
		if name == "busybox" {
			continue
		}
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: filepath.Join("bin", name), Linkname: "busybox"}); err != nil {
			return err
		}
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}); err != nil {
		return err
	}
	return out.Close()
}

// busybox returns a guest's disks: busybox, read-only.
func busybox(t testing.TB) []hv.Disk {
	t.Helper()
	netlab.Tool(t, "busybox")
	path, err := busyboxRoot()
	if err != nil {
		t.Fatal(err)
	}
	return []hv.Disk{{Path: path, ReadOnly: true, Format: hv.Ext4}}
}

// A rooted hypervisor gives each guest the same root.
type rooted struct {
	*Hypervisor
	disks []hv.Disk
}

// Start starts a guest with the disks. The suite's guests are small.
func (r rooted) Start(ctx context.Context, cfg hv.Config) (hv.VM, error) {
	cfg.Disks, cfg.MemoryMiB = r.disks, 192
	return r.Hypervisor.Start(ctx, cfg)
}

// boot starts a guest and boots its agent.
func boot(t testing.TB, h *Hypervisor, cfg hv.Config) (hv.VM, *guest.Client) {
	t.Helper()
	cfg.Name = "test"
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = 192
	}
	vm, err := h.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	client := guest.NewClient(vm.Agent())
	t.Cleanup(func() { client.Close() })
	if err := client.Boot(t.Context(), guest.Bootstrap{Hostname: "test", Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return vm, client
}

// shell runs a shell's commands in a guest and returns what they print.
func shell(t testing.TB, client *guest.Client, commands string) string {
	t.Helper()
	p, err := client.Start(t.Context(), guest.Command{Args: []string{"/bin/sh", "-c", commands + " 2>&1"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	// Both are drained: a stream that nobody reads stops the command.
	errs := make(chan struct{})
	go func() {
		defer close(errs)
		io.Copy(io.Discard, p.Stderr())
	}()
	text, err := io.ReadAll(p.Stdout())
	<-errs
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit.Code != 0 {
		t.Errorf("%q ended %+v, %v: %s", commands, exit, err, text)
	}
	return string(text)
}

// wait waits for a guest's end.
func wait(t testing.TB, vm hv.VM) hv.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := vm.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// A recorder keeps what is written to it.
type recorder struct {
	mu   sync.Mutex // guards the following field
	text strings.Builder
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}
