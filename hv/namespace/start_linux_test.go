package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/vnet/link"
)

// run runs a shell's command line in a guest of cfg and returns what it wrote
// to its standard output and error, and how it ended.
func run(t *testing.T, cfg hv.Config, line string) (string, guest.Exit) {
	t.Helper()
	return runCommand(t, cfg, "sh", "-c", line)
}

// inherit runs a command with the standard files of process 1.
func inherit(ctx context.Context, client *guest.Client, args ...string) (guest.Exit, error) {
	p, err := client.Start(ctx, guest.Command{Args: args, Inherit: true})
	if err != nil {
		return guest.Exit{}, err
	}
	defer p.Close()
	return p.Wait(ctx)
}

// A kernel that would not be booted is refused.
func TestKernelRefused(t *testing.T) {
	t.Parallel()
	for _, cfg := range []hv.Config{{Kernel: "/boot/vmlinuz"}, {Initrd: "/boot/initrd"}} {
		vm, err := New().Start(t.Context(), cfg)
		if err == nil {
			vm.Close()
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Start(%+v): %v; want that it is not supported", cfg, err)
		}
	}
}

// runCommand is run with a command of its own.
func runCommand(t *testing.T, cfg hv.Config, args ...string) (string, guest.Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cfg.Name, cfg.Stdio[1], cfg.Stdio[2] = "test", w, w
	vm, err := New().Start(t.Context(), cfg)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := out.ReadFrom(r)
		read <- err
	}()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	if err := client.Boot(t.Context(), guest.Bootstrap{Hostname: "box"}); err != nil {
		t.Fatal(err)
	}
	exit, err := inherit(t.Context(), client, args...)
	if err != nil {
		t.Fatal(err)
	}
	vm.Close()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	return out.String(), exit
}

func TestCommandRuns(t *testing.T) {
	t.Parallel()
	out, exit := run(t, hv.Config{}, "id -u; hostname; exit 7")
	if out != "0\nbox\n" || exit.Code != 7 {
		t.Errorf("got %q, %+v; want root on box, exit code 7", out, exit)
	}
}

func TestHostFilesAreReadOnly(t *testing.T) {
	t.Parallel()
	out, exit := run(t, hv.Config{}, "echo x > /etc/sluice-test; echo x > /sluice-test; test -r /etc/passwd")
	if strings.Count(out, "Read-only file system") != 2 || exit.Code != 0 {
		t.Errorf("got %q, %+v; want two refusals and a readable /etc/passwd", out, exit)
	}
}

func TestCardIsHandedOver(t *testing.T) {
	t.Parallel()
	vm, err := New().Start(t.Context(), hv.Config{Name: "test", NIC: &hv.NIC{MTU: 1400}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	nic, format := vm.NIC()
	if nic == nil || format != link.TAP {
		t.Fatalf("NIC() = %v, %v; want a TAP", nic, format)
	}
	defer nic.Close()
	if again, _ := vm.NIC(); again != nil {
		t.Error("a second NIC() gave the file again")
	}
}

func TestMemoryBoundsWhatTheGuestWrites(t *testing.T) {
	t.Parallel()
	const line = "head -c 3000000 /dev/zero > %s/a; head -c 3000000 /dev/zero > /dev/shm/b"
	out, _ := run(t, hv.Config{MemoryMiB: 4}, fmt.Sprintf(line, "/tmp"))
	if strings.Count(out, "No space left") != 1 {
		t.Errorf("two files of 3 MB in 4 MiB, in two places: %q; want the second refused", out)
	}
	out, _ = run(t, hv.Config{MemoryMiB: 4, Root: guestRoot(t)}, "cat /dev/zero > /a")
	if !strings.Contains(out, "No space left") {
		t.Errorf("a root without end: %q; want it refused", out)
	}
}

func TestWhatIsNotDoneIsSaid(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	run(t, hv.Config{CPUs: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))}, ":")
	if !strings.Contains(log.String(), "processors") {
		t.Errorf("the log doesn't say that processors are not limited: %s", &log)
	}
}

func TestHideWantsAbsolutePaths(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"relative", "", "/"} {
		vm, err := New().Start(t.Context(), hv.Config{Name: "test", Hide: []string{bad}})
		if err == nil {
			vm.Close()
			t.Errorf("Hide %q is taken", bad)
		}
	}
}
