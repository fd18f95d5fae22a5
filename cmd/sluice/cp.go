package main

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newCopy(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "cp SANDBOX:PATH DEST | cp SOURCE SANDBOX:PATH",
		Short: "Copy files or directories between this host and a running sandbox",
		Long: `Copy files or directories between this host and a running sandbox, with their
permissions and symbolic links. What is copied to a directory that exists comes
into it.`,
		Example: `  sluice cp worker:/tmp/report.txt .
  sluice cp src worker:/work`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return copyBetween(cmd.Context(), c, args[0], args[1])
		},
		ValidArgsFunction: completeCopy,
	}
}

// completeCopy completes sandboxes, and leaves files to the shell.
func completeCopy(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(typed, ":/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, err := sandboxNames(cmd.Context(), true)
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

// copyBetween copies from one place to another, one of them in a sandbox.
func copyBetween(ctx context.Context, c *console, from, to string) error {
	fromName, fromPath, fromGuest := splitPlace(from)
	toName, toPath, toGuest := splitPlace(to)
	switch {
	case from == "-" || to == "-":
		return errors.New("- is no file; sluice exec SANDBOX cat PATH prints one, sluice exec -i SANDBOX sh -c 'cat > PATH' writes one; a file of that name is ./-")
	case fromGuest == toGuest:
		return errors.New("one of the two is in a sandbox, written SANDBOX:PATH; a path of this host with a colon begins with ./")
	case fromGuest:
		return withSandbox(ctx, fromName, func(sb *m.Sandbox) error {
			p := newCopyProgress(c, from, time.Now())
			defer p.end()
			return sb.FS().WithProgress(p.copied).CopyToHost(ctx, fromPath, intoHostDir(toPath, fromPath))
		})
	}
	return withSandbox(ctx, toName, func(sb *m.Sandbox) error {
		dest, err := intoGuestDir(ctx, sb, toPath, fromPath)
		if err != nil {
			return err
		}
		p := newCopyProgress(c, from, time.Now())
		defer p.end()
		return sb.FS().WithProgress(p.copied).CopyFromHost(ctx, fromPath, dest)
	})
}

// splitPlace parts SANDBOX:PATH; guest is false for a path of this host.
func splitPlace(text string) (name, p string, guest bool) {
	name, p, ok := strings.Cut(text, ":")
	if !ok || strings.ContainsAny(name, `./\`) || len(name) == 1 && filepath.VolumeName(text) != "" {
		return "", text, false
	}
	return name, p, true
}

// intoHostDir returns where a guest's path goes on this host.
func intoHostDir(dest, guest string) string {
	if info, err := os.Stat(dest); err == nil && info.IsDir() {
		return filepath.Join(dest, path.Base(guest))
	}
	return dest
}

// intoGuestDir returns where a path of this host goes in a guest.
func intoGuestDir(ctx context.Context, sb *m.Sandbox, dest, host string) (string, error) {
	info, err := sb.FS().Stat(ctx, dest)
	switch {
	case m.IsKind(err, m.ErrPathNotFound):
		return dest, nil
	case err != nil:
		return "", err
	case !info.IsDir:
		return dest, nil
	}
	abs, err := filepath.Abs(host) // . has no name
	if err != nil {
		return "", err
	}
	return path.Join(dest, filepath.Base(abs)), nil
}
