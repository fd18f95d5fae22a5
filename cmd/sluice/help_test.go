package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// TestHelp prints the help of every command: it fits a narrow terminal, and says
// what each flag's value is.
func TestHelp(t *testing.T) {
	t.Parallel()
	var all func(cmd *cobra.Command)
	all = func(cmd *cobra.Command) {
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil {
			t.Errorf("%s: %v", cmd.CommandPath(), err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimRight(line, "\n")
			if n := utf8.RuneCountInString(line); n > helpWidth {
				t.Errorf("%s: %d columns: %s", cmd.CommandPath(), n, line)
			}
			for _, kind := range []string{" string ", " strings ", " stringArray ", " uint8 ", " uint32 "} {
				if strings.HasPrefix(strings.TrimSpace(line), "-") && strings.Contains(line, kind) {
					t.Errorf("%s: a value without a name: %s", cmd.CommandPath(), line)
				}
			}
		}
		for _, sub := range cmd.Commands() {
			all(sub)
		}
	}
	all(newRoot(newConsole(os.Stdin, os.Stdout, os.Stderr)))
}
