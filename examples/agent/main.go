// Command agent runs a command that isn't trusted, such as one that an agent made
// up. It reaches one API, with a key that it never sees, and nothing else; what else
// it tried is told at the end.
//
//	export API_KEY=…
//	agent api.example.com sh -c 'curl -sS -H "Authorization: Bearer $API_KEY" https://api.example.com/'
//
// The command has a placeholder in $API_KEY. The value takes its place in requests
// to that host, once its certificate has been checked, and nowhere else.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	m "github.com/sluicenet/sluice/sdk"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: API_KEY=… agent HOST COMMAND [ARG…]")
		os.Exit(2)
	}
	code, err := run(context.Background(), os.Args[1], os.Getenv("API_KEY"), os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run runs the command and returns its exit code.
func run(ctx context.Context, host, key string, command []string) (int, error) {
	tried := make(map[string]int)
	sb, err := m.CreateSandbox(ctx, fmt.Sprintf("agent-%d", os.Getpid()),
		m.WithBackend("namespace"), // this machine's files, read-only; WithImage has others
		m.WithNetwork(&m.NetworkConfig{
			Rules:        []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: host, Protocol: m.PolicyProtocolTCP, Port: "443"}},
			DenyResponse: m.DenyResponseReject, // an answer at once, instead of silence
		}),
		m.WithSecrets(m.Secret.Env("API_KEY", key, m.SecretEnvOptions{AllowHosts: []string{host}})),
		m.WithEvents(func(e m.Event) {
			if e.Denies() { // and doesn't tell that others were lost
				tried[target(e)]++
			}
		}, m.EventDenied),
	)
	if err != nil {
		return 0, err
	}
	code, err := sb.Attach(ctx, command[0], command[1:]...)
	err = errors.Join(err, sb.Close()) // and every event has come
	for _, t := range slices.Sorted(maps.Keys(tried)) {
		fmt.Fprintf(os.Stderr, "agent: tried %s, %d×\n", t, tried[t])
	}
	return code, err
}

// target says what was denied. The guest chose the name: %q keeps it from being
// more than text.
func target(e m.Event) string {
	if e.DNS != nil {
		return fmt.Sprintf("to look up %q", e.DNS.Name)
	}
	return fmt.Sprintf("%s to %v port %d", e.Flow.Protocol, e.Flow.Dst.Addr, e.Flow.Dst.Port)
}
