package main

import (
	"context"
	"net"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// choices are the values of flags that take one of few words, by the flag's name.
var choices = map[string][]string{
	"network":             {"none", "public-only", "non-local", "allow-all"},
	"deny-response":       {"drop", "reject"},
	"on-secret-violation": {"block", "block-and-log", "block-and-terminate"},
	"pull":                {"always", "if-missing", "never"},
	"summary":             {"text", "md", "json"},
	"verdict":             {"allow", "deny"},
	"output":              {"table", "json"},
	"source":              {"stdout", "stderr", "output", "system"},
	"backend":             {"auto", "namespace", "qemu", "krun", "vz"},
	"type":                eventTypes,
}

// completeChoices makes shells complete the values of cmd's flags, and of those
// below it. Sandboxes and images are completed by their own functions.
func completeChoices(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if words := choices[f.Name]; words != nil && f.Value.Type() != "bool" {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
		}
	})
	for _, sub := range cmd.Commands() {
		completeChoices(sub)
	}
}

// completeNames completes the names of sandboxes, at most so many.
func completeNames(running bool, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := sandboxNames(cmd.Context(), running)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeBound completes a sandbox, and then the ports that it publishes.
func completeBound(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completeNames(true, 1)(cmd, args, typed)
	}
	var ports []string
	err := withSandbox(cmd.Context(), args[0], func(sb *m.Sandbox) error {
		bound, err := sb.Ports().List(cmd.Context())
		for _, b := range bound {
			port := strconv.Itoa(int(b.HostPort))
			if b.Bind != "127.0.0.1" {
				port = net.JoinHostPort(b.Bind, port)
			}
			if b.Protocol == m.PortProtocolUDP {
				port += "/udp"
			}
			ports = append(ports, port)
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return ports, cobra.ShellCompDirectiveNoFileComp
}

// completeImages completes the names of images.
func completeImages(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	names, err := imageNames(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeRun completes the image, and leaves the rest to the shell: where no image
// matches it completes a command behind --, which cobra doesn't tell from an image.
func completeRun(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := imageNames(cmd.Context()) // a cache that can't be read has none
	return names, cobra.ShellCompDirectiveDefault
}

// imageNames returns the names of the images that are here.
func imageNames(ctx context.Context) ([]string, error) {
	images, err := m.Image.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range images {
		names = append(names, h.Reference())
	}
	return names, nil
}
