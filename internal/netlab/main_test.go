package netlab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestApart shows that the process is where Enter put it, with nothing of the
// machine's network.
func TestApart(t *testing.T) {
	t.Parallel()
	if Outside() != nil {
		Skip(t, "netlab", Outside().Error())
	}
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifaces {
		up := i.Flags&net.FlagUp != 0
		if up && i.Name != "lo" && i.Name != "wan" {
			t.Errorf("interface %s is up", i.Name)
		}
	}
	if strings.HasPrefix(os.Args[0], "netlab:") {
		t.Errorf("os.Args[0] is %q: the marker was left in", os.Args[0])
	}
}

// TestNoMarkerIsInherited shows that a test may run its own executable again
// without being taken for the agent.
func TestNoMarkerIsInherited(t *testing.T) {
	t.Parallel()
	for _, e := range os.Environ() {
		if strings.Contains(e, "netlab:") {
			t.Errorf("the environment holds %q", e)
		}
	}
}

// A fakeTB notes how a test would end.
type fakeTB struct {
	testing.TB
	end string
}

func (f *fakeTB) Helper() {}
func (f *fakeTB) Skipf(format string, args ...any) {
	f.ends("skip: " + fmt.Sprintf(format, args...))
}
func (f *fakeTB) Fatalf(format string, args ...any) {
	f.ends("fail: " + fmt.Sprintf(format, args...))
}
func (f *fakeTB) ends(how string) {
	if f.end == "" { // the real ones don't return, so the first counts
		f.end = how
	}
}

func TestSkip(t *testing.T) {
	for _, row := range []struct{ require, want string }{
		{"", "skip: needs kvm: no device"},
		{"netlab,tools", "skip: needs kvm: no device"},
		{"kvm2", "skip: needs kvm: no device"},
		{"netlab,kvm", "fail: SLUICE_REQUIRE promises kvm: no device"},
		{"all", "fail: SLUICE_REQUIRE promises kvm: no device"},
	} {
		t.Setenv("SLUICE_REQUIRE", row.require)
		f := new(fakeTB)
		Skip(f, "kvm", "no device")
		if !strings.HasPrefix(f.end, row.want) {
			t.Errorf("SLUICE_REQUIRE=%s: %q, want %q", row.require, f.end, row.want)
		}
	}
}

func TestTool(t *testing.T) {
	t.Setenv("SLUICE_REQUIRE", "")
	if got := Tool(t, "sh"); !strings.HasSuffix(got, "/sh") {
		t.Errorf("sh is %q", got)
	}
	f := new(fakeTB)
	if Tool(f, "no-such-tool"); !strings.HasPrefix(f.end, "skip: needs tools") {
		t.Errorf("a missing tool: %q", f.end)
	}
}

// leakForTest is in the stack of the goroutine that TestLeaked leaks for a while.
func leakForTest(started chan<- struct{}, stop <-chan struct{}) {
	close(started)
	<-stop
}

func TestLeaked(t *testing.T) {
	started, stop := make(chan struct{}), make(chan struct{})
	go leakForTest(started, stop)
	<-started
	if got := Leaked(0); !strings.Contains(got, "leakForTest(") {
		t.Errorf("leakForTest isn't in the stacks:\n%s", got)
	}
	go func() {
		time.Sleep(50 * time.Millisecond) // it ends while Leaked is patient
		close(stop)
	}()
	for deadline := time.Now().Add(leakPatience); strings.Contains(Leaked(time.Millisecond), "leakForTest"); {
		if time.Now().After(deadline) {
			t.Fatal("a goroutine that ended is still reported")
		}
	}
}

// TestExitCode runs this test binary's own tests again, outside and inside.
func TestExitCode(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		run  string
		code int
	}{
		{"TestNoSuchTest", 0},
		{"TestFailsOnDemand", 1},
		{"TestLeavesAProcess", 1},
	} {
		cmd := exec.CommandContext(t.Context(), self, "-test.run", "^"+row.run+"$")
		cmd.Env = append(os.Environ(), "NETLAB_FAIL_ON_DEMAND=1")
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != row.code {
			t.Errorf("-run %s: exit code %d, %v, want %d\n%s", row.run, got, err, row.code, out)
		}
	}
}

// TestLeavesAProcess leaves one running when TestExitCode wants it to.
func TestLeavesAProcess(t *testing.T) {
	if os.Getenv("NETLAB_FAIL_ON_DEMAND") != "" {
		if err := exec.Command("setsid", "sleep", "1000").Start(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailsOnDemand fails when TestExitCode wants it to.
func TestFailsOnDemand(t *testing.T) {
	if os.Getenv("NETLAB_FAIL_ON_DEMAND") != "" {
		t.Fatal("as demanded")
	}
}
