package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newDoctor(c *console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Find out, by trying, what sandboxes can do on this machine",
		Long: `Find out, by trying, what sandboxes can do on this machine: resolve a name,
open sockets, run a command in a guest of each backend. What is missing comes
with the command that would help.

The exit code is 1 if no backend works.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := m.Diagnose(cmd.Context())
			if err := o.print(c, found, func() error { return printDiagnoses(c, found) }); err != nil {
				return err
			}
			if !anyBackend(found) {
				return &exitError{code: codeFailure}
			}
			return nil
		},
	}
	o.register(cmd.Flags())
	return cmd
}

// anyBackend reports whether a guest can be run.
func anyBackend(found []m.Diagnosis) bool {
	for _, d := range found {
		if strings.HasPrefix(d.Check, "backend ") && d.Status == m.DiagnosisOK {
			return true
		}
	}
	return false
}

func printDiagnoses(c *console, found []m.Diagnosis) error {
	width := 0
	for _, d := range found {
		width = max(width, len(d.Check))
	}
	for _, d := range found {
		if _, err := fmt.Fprintf(c.out, "%-4s  %-*s  %s\n", d.Status, width, d.Check, d.Detail); err != nil {
			return err
		}
		if d.Fix != "" {
			if _, err := fmt.Fprintf(c.out, "%-4s  %-*s  → %s\n", "", width, "", d.Fix); err != nil {
				return err
			}
		}
	}
	return nil
}
