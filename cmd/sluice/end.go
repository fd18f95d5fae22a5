package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

// forEach calls do with each of the named sandboxes, and says the names of those
// with which it went well.
func forEach(ctx context.Context, c *console, names []string, do func(*m.SandboxHandle) error) error {
	return each(names, func(name string) error {
		h, err := m.GetSandbox(ctx, name)
		if err != nil {
			return err
		}
		if err := do(h); err != nil {
			return err
		}
		c.say(name)
		return nil
	})
}

func newStart(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "start SANDBOX…",
		Short: "Start sandboxes again that have ended and were kept",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(cmd.Context(), c, args, func(h *m.SandboxHandle) error {
				sb, err := h.StartDetached(cmd.Context())
				if err != nil {
					return err
				}
				return sb.Close() // lets go only
			})
		},
		ValidArgsFunction: completeNames(false, 100),
	}
}

func newStop(c *console) *cobra.Command {
	var seconds uint
	cmd := &cobra.Command{
		Use:   "stop [flags] SANDBOX…",
		Short: "Ask the commands of sandboxes to end, then end the sandboxes",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(cmd.Context(), c, args, func(h *m.SandboxHandle) error {
				return h.Stop(cmd.Context(), m.WithStopTimeout(time.Duration(seconds)*time.Second))
			})
		},
		ValidArgsFunction: completeNames(true, 100),
	}
	cmd.Flags().UintVarP(&seconds, "time", "t", 10, "give them `SECONDS`, then kill them")
	return cmd
}

func newKill(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "kill SANDBOX…",
		Short: "End sandboxes at once",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(cmd.Context(), c, args, func(h *m.SandboxHandle) error { return h.Kill(cmd.Context()) })
		},
		ValidArgsFunction: completeNames(true, 100),
	}
}

func newRemove(c *console) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] SANDBOX…",
		Short: "Remove what sandboxes that have ended left: files, logs, events",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(cmd.Context(), c, args, func(h *m.SandboxHandle) error {
				if force && runs(h) {
					if err := h.Kill(cmd.Context()); err != nil {
						return err
					}
				}
				err := h.Remove(cmd.Context())
				if force && m.IsKind(err, m.ErrSandboxNotFound) { // it was ephemeral, and has removed itself
					return nil
				}
				return err
			})
		},
		ValidArgsFunction: completeNames(false, 100),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill those that run first")
	return cmd
}
