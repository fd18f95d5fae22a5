package sdk_test

import (
	"context"
	"fmt"
	"os"

	m "github.com/sluicenet/sluice/sdk"
)

// A command runs on this host's own files, behind another network.
func ExampleCreateSandbox() {
	ctx := context.Background()
	sb, err := m.CreateSandbox(ctx, "worker",
		m.WithBackend("namespace"),
		m.WithNetwork(m.NetworkPolicy.PublicOnly()),
		m.WithStdio(nil, os.Stdout, os.Stderr),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	code, err := sb.Attach(ctx, "sh", "-c", "echo hello from $(hostname)")
	fmt.Println(code, err)
	// Output:
	// hello from worker
	// 0 <nil>
}

// Every denial is an event that names the rule.
func ExampleWithEvents() {
	ctx := context.Background()
	sb, err := m.CreateSandbox(ctx, "watched",
		m.WithBackend("namespace"),
		m.WithNetwork(&m.NetworkConfig{
			Rules:        []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: "public"}},
			DenyResponse: m.DenyResponseReject,
		}),
		m.WithEvents(func(e m.Event) {
			if e.Denies() && e.Flow != nil {
				fmt.Println("denied", e.Flow.Protocol, "to", e.Flow.Dst.Group, e.Flow.Dst.Port, "by", e.Verdict.Source)
			}
		}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	code, err := sb.Attach(ctx, "curl", "-4s", "http://host.microsandbox.internal:8080/")
	fmt.Println(code, err)
	if err := sb.Close(); err != nil { // and every event has come
		fmt.Println(err)
	}
	// Unordered output:
	// denied tcp to host 8080 by default egress
	// 7 <nil>
}

// A service in the guest is published on the host, on a free port.
func ExampleWithPortBindings() {
	ctx := context.Background()
	sb, err := m.CreateSandbox(ctx, "served",
		m.WithBackend("namespace"),
		m.WithPortBindings(m.PortBinding{GuestPort: 80}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	ports, err := sb.Ports().List(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ports[0].Bind, ports[0].HostPort > 0, ports[0].GuestPort)
	// Output:
	// 127.0.0.1 true 80
}
