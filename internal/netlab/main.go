package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// leakPatience is how long goroutines may take to end after the last test: a
// closed connection's reader needs a moment, a leaked one has all day.
const leakPatience = 5 * time.Second

// errOutside says why this process runs outside a lab's namespace; nil inside. It
// is set by Enter, before any other goroutine.
var errOutside = errors.New("netlab.Enter was not called")

// Main runs a package's tests inside a namespace of their own and exits; call it
// from TestMain, before anything that starts a goroutine. It fails if
// goroutines are left when the tests have ended.
func Main(m *testing.M) {
	Enter()
	os.Exit(Run(m))
}

// Run runs the tests of an entered process, takes the lab down, checks for leaked
// goroutines, and returns the code to exit with. It is Main for a TestMain that
// has something to do after Enter.
func Run(m *testing.M) int {
	code := m.Run()
	if err := theLab.close(); err != nil {
		fmt.Fprintln(os.Stderr, "netlab:", err)
		code = max(code, 1)
	}
	// A failed test may well have left something; its own message matters more.
	if code == 0 {
		if stacks := Leaked(leakPatience); stacks != "" {
			fmt.Fprintf(os.Stderr, "netlab: goroutines leaked by the tests:\n\n%s\n", stacks)
			code = 1
		}
	}
	return code
}

// Enter makes sure that the process runs inside a namespace of its own: it starts
// this executable again in there, waits for it and exits with its code. It
// returns in the second process, where only a loopback interface exists, or in
// the first if namespaces can't be made; [Outside] tells.
func Enter() { errOutside = enter() }

// Outside returns why the process runs outside a namespace of its own, nil if it
// runs inside.
func Outside() error { return errOutside }

// Skip skips t because this machine lacks what it needs, for example "kvm". A
// skip is a claim about the machine: where the variable SLUICE_REQUIRE lists
// the thing, or is "all", the machine was promised to have it and t fails.
func Skip(t testing.TB, thing, reason string) {
	t.Helper()
	required := strings.Split(os.Getenv("SLUICE_REQUIRE"), ",")
	if slices.Contains(required, thing) || slices.Contains(required, "all") {
		t.Fatalf("SLUICE_REQUIRE promises %s: %s", thing, reason)
	}
	t.Skipf("needs %s: %s", thing, reason)
}

// Tool returns the path of a program that a test runs, or skips t for want of
// "tools".
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "tools", err.Error())
	}
	return path
}
