package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is what sluice version says.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the sources, if they were a checkout
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// String returns v in a line.
func (v version) String() string { return fmt.Sprintf("sluice %s %s %s", v.Version, v.Go, v.Platform) }

func newVersion(c *console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "version [flags]",
		Short: "Print the version",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := readVersion()
			return o.print(c, v, func() error {
				_, err := fmt.Fprintln(c.out, v)
				return err
			})
		},
	}
	o.register(cmd.Flags())
	return cmd
}

func readVersion() version {
	v := version{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}
