package namespace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
)

func TestAtLeast(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		release string
		want    bool
	}{
		{"5.14.0", true}, {"5.14", true}, {"5.14-rc1", true}, {"5.13.19", false}, {"6.1.0-13-amd64", true}, {"4.19.0", false},
		{"10.0", true}, {"5.4.0-150-generic", false}, {"5.100.1", true}, {"", false}, {"5", false}, {"x.y", false},
	} {
		if got := atLeast(row.release, 5, 14); got != row.want {
			t.Errorf("%q is 5.14 or newer: %t", row.release, got)
		}
	}
}

// TestForkBomb lets commands make processes without end, and checks that they come to
// one all the same, that the agent still answers, and that the guest can be ended.
func TestForkBomb(t *testing.T) {
	t.Parallel()
	if !countsByNamespace() {
		t.Skip("this kernel has no bound on processes by namespace")
	}
	const bound = 64
	h := New()
	h.Processes = bound
	vm, err := h.Start(t.Context(), hv.Config{Name: "bomb"})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	c := guest.NewClient(vm.Agent())
	defer c.Close()
	if err := c.Boot(t.Context(), guest.Bootstrap{}); err != nil {
		t.Fatal(err)
	}
	start := func(line string) (*guest.Process, error) {
		return c.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", line}})
	}
	// It counts without a process of its own.
	counter, err := c.Start(t.Context(), guest.Command{Args: []string{"sh", "-c", "while read x; do set -- /proc/[0-9]*; echo $#; done"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer counter.Close()
	// A shell gives up at the first fork that fails, and makes room. Sleepers don't.
	bomb, err := start(`b() { b | b & }; b; while :; do sleep 600 & done`)
	if err != nil {
		t.Fatal(err)
	}
	defer bomb.Close()
	if _, err := io.Copy(io.Discard, bomb.Stderr()); err != nil {
		t.Fatal(err)
	}
	var refused *guest.StartError
	for i := 0; refused == nil; i++ {
		p, err := start("exec sleep 600")
		if err != nil && !errors.As(err, &refused) || i > 2*bound {
			t.Fatalf("command %d: %v", i, err)
		}
		if err == nil {
			defer p.Close()
		}
	}
	if refused.Code != guest.CodeRefused || !strings.Contains(refused.Message, unix.EAGAIN.Error()) {
		t.Errorf("another command: %+v", refused)
	}
	if _, err := io.WriteString(counter.Stdin(), "\n"); err != nil {
		t.Fatal(err)
	}
	var processes int
	if _, err := fmt.Fscan(counter.Stdout(), &processes); err != nil {
		t.Fatal(err)
	}
	if processes > bound+1 { // and the agent's, of whose threads there are more
		t.Errorf("%d processes, with a bound of %d", processes, bound)
	}
}

// TestProcessesOfAllUsers checks that users of a guest are bound together, where the
// kernel can.
func TestProcessesOfAllUsers(t *testing.T) {
	t.Parallel()
	if !kernelIs(6, 14) {
		t.Skip("this kernel has one bound for all PID namespaces")
	}
	before, err := os.ReadFile(pidMax)
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := run(t, hv.Config{}, "cat "+pidMax+"; echo 9999 > "+pidMax+"; grep processes /proc/self/limits"); !strings.HasPrefix(out, "5120\n") ||
		!strings.Contains(out, "Read-only file system") || !strings.Contains(out, " 4096 ") {
		t.Errorf("%q", out)
	}
	if after, err := os.ReadFile(pidMax); err != nil || string(after) != string(before) {
		t.Errorf("the host's was %s and is %s, %v", before, after, err)
	}
}
