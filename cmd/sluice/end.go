package main

import (
	"time"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newStart(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "start SANDBOX…",
		Short: "Start sandboxes again that have ended and were kept",
		Args:  takes(1, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(args, func(name string) error {
				sb, err := m.StartSandboxDetached(cmd.Context(), name)
				if err != nil {
					return err
				}
				c.say(name)
				return sb.Close()
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
			return each(args, func(name string) error {
				h, err := m.GetSandbox(cmd.Context(), name)
				if err != nil {
					return err
				}
				if err := h.Stop(cmd.Context(), m.WithStopTimeout(time.Duration(seconds)*time.Second)); err != nil {
					return err
				}
				c.say(name)
				return nil
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
			return each(args, func(name string) error {
				h, err := m.GetSandbox(cmd.Context(), name)
				if err != nil {
					return err
				}
				if err := h.Kill(cmd.Context()); err != nil {
					return err
				}
				c.say(name)
				return nil
			})
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
			return each(args, func(name string) error {
				h, err := m.GetSandbox(cmd.Context(), name)
				if err != nil {
					return err
				}
				if force && runs(h) {
					if err := h.Kill(cmd.Context()); err != nil {
						return err
					}
				}
				// An ephemeral one has removed itself.
				if err := h.Remove(cmd.Context()); err != nil && !(force && m.IsKind(err, m.ErrSandboxNotFound)) {
					return err
				}
				c.say(name)
				return nil
			})
		},
		ValidArgsFunction: completeNames(false, 100),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill those that run first")
	return cmd
}
