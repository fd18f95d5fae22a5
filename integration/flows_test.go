package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// echoHosts makes hosts that echo on port 7 and returns their addresses with it, of
// both families in turn.
func echoHosts(t *testing.T, lab *netlab.Lab, name string, n int) []string {
	t.Helper()
	var endpoints []string
	for i := range n {
		h := lab.Host(t, fmt.Sprintf("%s%d.example", name, i))
		h.TCP(7, netlab.Echo)
		endpoints = append(endpoints, h.Endpoint(families[i%2], 7))
	}
	return endpoints
}

// TestManyAtOnce holds a thousand flows.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const flows = 1000
	endpoints := echoHosts(t, netlab.New(t), "many", 4)
	g := startGuest(t)
	line := fmt.Sprintf("%s hold %d %s", client, flows, strings.Join(endpoints, " "))
	g.want(line, strconv.Itoa(flows)) // what grows only once, pools and tables, has grown now
	before := g.usage()
	g.want(line, strconv.Itoa(flows))
	g.wantNoGrowth(before, flows)
}

// TestManyInSequence connects a hundred thousand times, which is more than an address
// has ports: TIME_WAIT holds each for a minute, so the hosts are eight, and this
// machine uses all its ports.
func TestManyInSequence(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	lab := netlab.New(t)
	lab.Sysctl(t, "ipv4/ip_local_port_range", "1024 65535")
	const connects = 100_000
	endpoints := echoHosts(t, lab, "sequence", 8)
	g := startGuest(t)
	line := "%s sequence %d " + strings.Join(endpoints, " ")
	g.want(fmt.Sprintf(line, client, 2000), "2000")
	before := g.usage()
	const step = 10_000 // each within the patience for one command
	for done := 0; done < connects && !t.Failed(); done += step {
		g.want(fmt.Sprintf(line, client, step), strconv.Itoa(step))
	}
	g.wantNoGrowth(before, connects)
}

// A usage is what a sandbox's process holds.
type usage struct {
	descriptors int
	threads     int
	memoryKiB   int // resident
}

// usage returns what the sandbox's process holds now.
func (g *guest) usage() usage {
	g.t.Helper()
	dir := fmt.Sprintf("/proc/%d", g.sandboxPID())
	descriptors, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		g.t.Fatal(err)
	}
	u := usage{descriptors: len(descriptors)}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
		switch name {
		case "Threads":
			u.threads, err = strconv.Atoi(value)
		case "VmRSS":
			u.memoryKiB, err = strconv.Atoi(value)
		}
		if err != nil {
			g.t.Fatal(err)
		}
	}
	return u
}

// sandboxPID returns the process that holds the sandbox's network: the child of
// sluice run.
func (g *guest) sandboxPID() int {
	g.t.Helper()
	all, err := netlab.Processes()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, p := range all {
		if p.Parent == g.shell.PID() {
			return p.PID
		}
	}
	g.t.Fatal("sluice run has no child")
	return 0
}

// wantNoGrowth checks that the sandbox's process holds what it held, once flows have
// ended. Memory may have grown by the runtime's slack, but not with the flows.
func (g *guest) wantNoGrowth(before usage, flows int) {
	g.t.Helper()
	const slackKiB = 32 << 10
	var after usage
	for end := deadline(); ; time.Sleep(100 * time.Millisecond) { // TIME_WAIT in the sandbox is 10 s
		after = g.usage()
		settled := after.descriptors <= before.descriptors+4 && after.memoryKiB <= before.memoryKiB+slackKiB
		if settled || time.Now().After(end) {
			break
		}
	}
	g.t.Logf("%d flows: before %+v, after %+v", flows, before, after)
	if after.descriptors > before.descriptors+4 {
		g.t.Errorf("%d descriptors after %d flows, %d before", after.descriptors, flows, before.descriptors)
	}
	if after.memoryKiB > before.memoryKiB+slackKiB {
		g.t.Errorf("%d KiB of memory after %d flows, %d before", after.memoryKiB, flows, before.memoryKiB)
	}
	if after.threads > before.threads+16 {
		g.t.Errorf("%d threads after %d flows, %d before", after.threads, flows, before.threads)
	}
}

// TestDescriptorLimit shows that an explicit number of flows that the limit on
// descriptors can't carry is an error, and that the default adapts, with a warning.
func TestDescriptorLimit(t *testing.T) {
	t.Parallel()
	netlab.New(t)
	for _, row := range []struct {
		flags string
		code  int
		want  string
	}{
		{"--max-connections 4000", 125, "MaxConnections"},
		{"", 0, "warning"},
		{"--max-connections 100", 0, ""},
	} {
		line := fmt.Sprintf("ulimit -n 1000; exec %s run --backend namespace %s -- true", sluice, row.flags)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
		code := 0
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != row.code || !strings.Contains(string(out), row.want) {
			t.Errorf("%s: exit code %d, want %d and %q in\n%s", line, code, row.code, row.want, out)
		}
	}
}
