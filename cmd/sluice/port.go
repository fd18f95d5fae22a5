package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newPort(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "port",
		Short: "Publish ports of a running sandbox",
	}
	return family(cmd, newPortList(c), newPortAdd(c), newPortRemove(c))
}

func newPortList(c *console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "ls [flags] SANDBOX",
		Short: "List what a sandbox publishes",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSandbox(cmd.Context(), args[0], func(sb *m.Sandbox) error {
				bindings, err := sb.Ports().List(cmd.Context())
				if err != nil {
					return err
				}
				return printRows(c, &o, "HOST\tGUEST\tPROTOCOL", bindings, func(b m.PortBinding) string {
					return fmt.Sprintf("%s\t%d\t%s", hostOf(b), b.GuestPort, b.Protocol)
				})
			})
		},
		ValidArgsFunction: completeNames(true, 1),
	}
	o.register(cmd.Flags())
	return cmd
}

// hostOf returns where a binding is on this host.
func hostOf(b m.PortBinding) string {
	return net.JoinHostPort(b.Bind, strconv.Itoa(int(b.HostPort)))
}

func newPortAdd(c *console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:     "add [flags] SANDBOX [ADDR:][HOSTPORT]:PORT[/udp]…",
		Short:   "Publish ports, and print where",
		Example: "  sluice port add worker 8080:80",
		Args:    takes(2, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			var wanted, bound []m.PortBinding
			for _, text := range args[1:] {
				b, err := parsePublish(text)
				if err != nil {
					return fmt.Errorf("port %q: %w", text, err)
				}
				wanted = append(wanted, b)
			}
			err := withSandbox(cmd.Context(), args[0], func(sb *m.Sandbox) error {
				return each(wanted, func(b m.PortBinding) error {
					b, err := sb.Ports().Add(cmd.Context(), b)
					if err == nil {
						bound = append(bound, b)
					}
					return err
				})
			})
			return errors.Join(printRows(c, &o, "", bound, hostOf), err)
		},
		ValidArgsFunction: completeNames(true, 1),
	}
	o.register(cmd.Flags())
	return cmd
}

func newPortRemove(c *console) *cobra.Command {
	return &cobra.Command{
		Use:     "rm SANDBOX [ADDR:]HOSTPORT[/udp]…",
		Short:   "End publications, and the connections that came through them",
		Example: "  sluice port rm worker 8080",
		Args:    takes(2, many),
		RunE: func(cmd *cobra.Command, args []string) error {
			var bound []m.PortBinding
			for _, text := range args[1:] {
				place, protocol, _ := strings.Cut(text, "/")
				b, err := parseBound(place, protocol)
				if err == nil && b.HostPort == 0 {
					err = errNoPort
				}
				if err != nil {
					return fmt.Errorf("port %q: %w; write [ADDR:]HOSTPORT[/udp], as sluice port ls shows it", text, err)
				}
				bound = append(bound, b)
			}
			return withSandbox(cmd.Context(), args[0], func(sb *m.Sandbox) error {
				return each(bound, func(b m.PortBinding) error { return sb.Ports().Remove(cmd.Context(), b) })
			})
		},
		ValidArgsFunction: completeBound,
	}
}
