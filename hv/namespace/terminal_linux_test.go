package namespace

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

// openTerminal returns a new terminal and its other end.
func openTerminal(t *testing.T) (terminal, other *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	other = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { other.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, other
}

func TestTerminalIsOneInTheGuest(t *testing.T) {
	t.Parallel()
	terminal, other := openTerminal(t)
	vm, err := New().Start(t.Context(), hv.Config{Name: "test", Stdio: [3]*os.File{terminal, terminal, terminal}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	if err := client.Boot(t.Context(), guest.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	// It is a terminal with a name, but nobody's controlling one: the guest gets
	// no signals from it, and pushes nothing into its input.
	line := "tty; test -t 0 && test -t 1 && test -t 2 && echo all; (: < /dev/tty) 2>/dev/null || echo none"
	if _, err := inherit(t.Context(), client, "sh", "-c", line); err != nil {
		t.Fatal(err)
	}
	vm.Close()
	terminal.Close()
	out, err := io.ReadAll(other)
	if len(out) == 0 {
		t.Fatal(err) // EIO is a terminal's end
	}
	if got := strings.ReplaceAll(string(out), "\r", ""); got != "/dev/console\nall\nnone\n" {
		t.Errorf("the guest wrote %q", got)
	}
}
