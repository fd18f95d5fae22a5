package sdk_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	m "github.com/sluicenet/sluice/sdk"
)

// Names that the guest knows without a resolver.
func ExampleWithAddHost() {
	sb := create("example-add-host", m.WithAddHost("db.example", "10.1.2.3"), m.WithAddHost("this-host", "host-gateway"))
	defer sb.Close()
	out, err := sb.Shell(context.Background(), "getent ahostsv4 db.example | grep STREAM; test \"$(getent ahostsv4 this-host)\" && echo host")
	fmt.Print(strings.Join(strings.Fields(out.Stdout()), " "), " ", err, "\n")
	// Output:
	// 10.1.2.3 STREAM db.example host <nil>
}

// TestAddHosts checks that calls add up, and that too many are refused.
func TestAddHosts(t *testing.T) {
	t.Parallel()
	sb := running(t, "add-hosts",
		m.WithAddHost("two.example", "10.1.2.3"), m.WithAddHost("two.example", "fd77::5"), m.WithAddHost("host.docker.internal", "host-gateway"))
	text, err := sb.FS().ReadString(t.Context(), "/etc/hosts")
	if err != nil || !strings.Contains(text, "10.1.2.3\ttwo.example\nfd77::5\ttwo.example\n") {
		t.Errorf("/etc/hosts is %q, %v", text, err)
	}
	if n := strings.Count(text, "host.docker.internal"); n != 2 { // IPv4 and IPv6
		t.Errorf("%d lines name the host in %q", n, text)
	}
	many := make([]string, 1025)
	for i := range many {
		many[i] = "10.0.0.1"
	}
	_, err = m.CreateSandbox(t.Context(), "too-many", m.WithBackend("namespace"), m.WithAddHost("many.example", many...))
	if !m.IsKind(err, m.ErrInvalidConfig) || !strings.Contains(err.Error(), "more than 1024 addresses") {
		t.Errorf("1025 addresses: %v", err)
	}
}
