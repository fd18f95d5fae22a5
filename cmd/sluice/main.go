// Command sluice runs programs in sandboxes whose network is decided by a
// policy, and shows what they tried to reach.
//
//	sluice run --backend namespace -- curl https://example.com
//
// Data goes to standard output, everything else to standard error. Everything
// is done through package sdk.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func main() { os.Exit(run(os.Args[1:], newConsole(os.Stdin, os.Stdout, os.Stderr))) }

// run is main, for the console c; it returns the exit code.
func run(args []string, c *console) int {
	root := newRoot(c)
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{code: codeOf(err), err: err}
	}
	if exit.err != nil {
		c.errorf("%v%s", inFlags(cmd.Flags(), exit.err), adviceOn(exit.err))
	}
	return exit.code
}

// codeOf returns the exit code for an error of a command other than run: what the
// user wrote makes no sense, or it was tried and failed.
func codeOf(err error) int {
	var failure *m.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &failure):
	case errors.As(err, &errno): // standard output can't be written to
		return codeFailure
	default:
		return codeUsage
	}
	switch failure.Kind {
	case m.ErrInvalidArgument, m.ErrInvalidConfig, m.ErrNetworkPolicy, m.ErrTLS, m.ErrPathNotFound:
		return codeUsage
	}
	return codeFailure
}

// adviceOn returns what to type after an error whose text doesn't say so.
func adviceOn(err error) string {
	switch {
	case m.IsKind(err, m.ErrSandboxNotFound):
		return "; sluice ls lists those there are"
	case m.IsKind(err, m.ErrSandboxNotRunning):
		return "; sluice start begins again what was kept"
	}
	return ""
}

// The exit codes of sluice itself. A command's own code is passed on, 128 and
// the signal's number if a signal ended it.
const (
	codeFailure       = 1   // of a command other than run
	codeUsage         = 2   // of the command line, or of a file it names
	codeDenied        = 77  // run --fail-on-deny: the command succeeded, but something was denied
	codeRun           = 125 // run failed before, or instead of, the command
	codeNotExecutable = 126 // the command can't be run
	codeNotFound      = 127 // there is no such command
)

// An exitError ends the program with a code. A nil err says nothing more.
type exitError struct {
	code int
	err  error
}

// Error returns the text of err.
func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

// Unwrap returns err.
func (e *exitError) Unwrap() error { return e.err }

// newRoot returns the command line's root.
func newRoot(c *console) *cobra.Command {
	root := &cobra.Command{
		Use:           "sluice",
		Short:         "Run programs in sandboxes whose network is decided by a policy",
		Long:          "Run programs in sandboxes whose network is decided by a policy.",
		Example:       "  sluice run --backend namespace --allow api.example.com:443 -- ./install.sh",
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
		Version:       readVersion().String(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "print the version")
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetUsageFunc(usage)
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().BoolVarP(&c.quiet, "quiet", "q", false, "print data and errors only")
	root.PersistentFlags().BoolP("help", "h", false, "print help")
	groups := []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Sandboxes", []*cobra.Command{newRun(c), newExec(c), newShell(c), newCopy(c), newLogs(c), newList(c), newInspect(c)}},
		{"Their end", []*cobra.Command{newStop(c), newKill(c), newStart(c), newRemove(c)}},
		{"Their network", []*cobra.Command{newFlows(c), newEvents(c), newPolicy(c), newPort(c)}},
		{"This machine", []*cobra.Command{newImages(c), newDoctor(c), newVersion(c)}},
	}
	var all []*cobra.Command
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, cmd := range g.commands {
			cmd.GroupID = g.title
			all = append(all, cmd)
		}
	}
	root.SetHelpCommandGroupID("This machine")
	root.SetCompletionCommandGroupID("This machine")
	family(root, all...)
	completeChoices(root)
	return root
}
