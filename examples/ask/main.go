// Command ask runs a command that reaches nothing at first, and asks about each new
// destination, as personal firewalls do. What is allowed counts at once, so the
// command gets there when it tries again.
//
//	ask sh -c 'until curl -sS https://example.com/; do sleep 1; done'
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	m "github.com/sluicenet/sluice/sdk"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: ask COMMAND [ARG…]")
		os.Exit(2)
	}
	code, err := run(context.Background(), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "ask:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run runs the command and returns its exit code.
func run(ctx context.Context, command []string) (int, error) {
	network := m.NetworkConfig{DefaultEgress: m.PolicyActionDeny, DenyResponse: m.DenyResponseReject}
	sb, err := m.CreateSandbox(ctx, fmt.Sprintf("ask-%d", os.Getpid()),
		m.WithBackend("namespace"),
		m.WithNetwork(&network),
		m.WithStdio(nil, os.Stdout, os.Stderr), // standard input is for the answers
	)
	if err != nil {
		return 0, err
	}
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := sb.Attach(ctx, command[0], command[1:]...)
		ended <- end{code, errors.Join(err, sb.Close())} // which ends the events too
	}()
	err = ask(ctx, sb, network)
	e := <-ended
	return e.code, errors.Join(err, e.err)
}

// ask asks about what is denied, until the sandbox has ended.
func ask(ctx context.Context, sb *m.Sandbox, network m.NetworkConfig) error {
	asked := make(map[string]bool)
	answers := bufio.NewScanner(os.Stdin)
	for e, err := range sb.Events(ctx, m.EventFilter{Denied: true}) {
		if m.IsKind(err, m.ErrInvalidHandle) {
			return nil // closed before it was asked
		}
		if err != nil {
			return err
		}
		rule, ok := ruleFor(e)
		if question := rule.String(); !ok || asked[question] {
			continue
		} else {
			asked[question] = true
			fmt.Fprintf(os.Stderr, "ask: %s? [y/N] ", question)
		}
		if !answers.Scan() || answers.Text() != "y" {
			continue
		}
		network.Rules = append(network.Rules, rule)
		if _, err := sb.UpdateNetwork(ctx, &network); err != nil && !m.IsKind(err, m.ErrSandboxNotRunning) {
			return err
		}
	}
	return nil
}

// ruleFor returns the smallest rule that would have allowed what was denied. What
// a rule denied, or what is always denied, none can allow.
func ruleFor(e m.Event) (rule m.PolicyRule, ok bool) {
	rule = m.PolicyRule{Action: m.PolicyActionAllow}
	switch {
	case e.Verdict.Source != "default egress":
		return rule, false
	case e.DNS != nil: // who may reach a name may look it up
		rule.Destination = e.DNS.Name
		return rule, true
	}
	to := e.Flow.Dst
	rule.Destination, rule.Protocol = to.Addr.String(), e.Flow.Protocol
	if to.Name != "" {
		rule.Destination = to.Name
	}
	if to.Port != 0 { // ICMP has none
		rule.Port = strconv.Itoa(int(to.Port))
	}
	return rule, true
}
