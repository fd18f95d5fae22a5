package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newDoctor(c *console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out, by trying, what sandboxes can do on this machine",
		Long: `Find out, by trying, what sandboxes can do on this machine: resolve a name,
open sockets, run a command in a guest of each backend. What is missing comes
with the command that would help.

The exit code is 1 if no backend works.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := m.Diagnose(cmd.Context())
			if err := printDiagnoses(c, found, asJSON); err != nil {
				return err
			}
			if !anyBackend(found) {
				return &exitError{code: codeFailure}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
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

func printDiagnoses(c *console, found []m.Diagnosis, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(c.out).Encode(found)
	}
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
