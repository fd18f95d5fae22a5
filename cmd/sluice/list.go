package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	m "github.com/sluicenet/sluice/sdk"
)

// An output is how a command prints what it found.
type output struct {
	format string // table or json
	json   bool   // short for format json
}

func (o *output) register(flags *pflag.FlagSet) {
	flags.StringVarP(&o.format, "output", "o", "", "print a `FORMAT`: table or json (default table)")
	flags.BoolVar(&o.json, "json", false, "short for -o json")
}

// asJSON reports whether JSON is wanted.
func (o *output) asJSON() (bool, error) {
	switch {
	case o.json, o.format == "json":
		return true, nil
	case o.format == "", o.format == "table":
		return false, nil
	}
	return false, fmt.Errorf("--output %q: want table or json", o.format)
}

// print prints v as JSON, or what text does.
func (o *output) print(c *console, v any, text func() error) error {
	asJSON, err := o.asJSON()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(c.out).Encode(v)
	}
	return text()
}

// printRows prints rows, as JSON or below a table's head, if it has one. line
// writes a row, its columns parted by tabs.
func printRows[R any](c *console, o *output, head string, rows []R, line func(R) string) error {
	if rows == nil {
		rows = []R{} // JSON's is no null
	}
	return o.print(c, rows, func() error {
		t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		if head != "" {
			fmt.Fprintln(t, head)
		}
		for _, r := range rows {
			fmt.Fprintln(t, line(r))
		}
		return t.Flush()
	})
}

// listedSandbox is a sandbox as ls prints it.
type listedSandbox struct {
	Name    string            `json:"name"`
	Status  m.SandboxStatus   `json:"status"`
	Backend string            `json:"backend,omitempty"`
	Image   string            `json:"image,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	Labels  map[string]string `json:"labels,omitempty"`
}

func newList(c *console) *cobra.Command {
	var o output
	var labels []string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list", "ps"},
		Short:   "List sandboxes, running or kept",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := parseLabels(labels)
			if err != nil {
				return err
			}
			page, err := m.ListSandboxesWith(cmd.Context(), m.WithListLabels(wanted))
			if err != nil {
				return err
			}
			if quiet {
				for _, h := range page.Sandboxes {
					fmt.Fprintln(c.out, h.Name())
				}
				return nil
			}
			var rows []listedSandbox
			for _, h := range page.Sandboxes {
				rows = append(rows, listed(h))
			}
			now := time.Now()
			return printRows(c, &o, "NAME\tSTATUS\tBACKEND\tIMAGE\tCREATED", rows, func(r listedSandbox) string {
				return strings.Join([]string{r.Name, string(r.Status), cmp.Or(r.Backend, "-"), cmp.Or(printable(r.Image), "-"), age(r.Created, now)}, "\t")
			})
		},
	}
	o.register(cmd.Flags())
	cmd.Flags().BoolP("all", "a", false, "as always: those that have ended are listed too")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only those with label `KEY=VALUE`; repeatable")
	return cmd
}

// listed returns what ls says of a sandbox. A configuration that can't be read
// leaves the image out: ls has to show what there is.
func listed(h *m.SandboxHandle) listedSandbox {
	l := listedSandbox{
		Name:    h.Name(),
		Status:  h.Status(),
		Backend: h.Backend(),
		Created: h.CreatedAt(),
		Updated: h.UpdatedAt(),
		Labels:  h.Labels(),
	}
	if cfg, err := h.Config(); err == nil {
		l.Image = cmp.Or(cfg.Image, cfg.BindRootfs)
	}
	return l
}

// parseLabels reads KEY=VALUE.
func parseLabels(texts []string) (map[string]string, error) {
	labels := make(map[string]string)
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--label %q: want KEY=VALUE", text)
		}
		labels[key] = value
	}
	return labels, nil
}

// inspectedSandbox is a sandbox as inspect prints it.
type inspectedSandbox struct {
	listedSandbox
	Config json.RawMessage `json:"config"`
	// The rest is of a sandbox that runs.
	Ports    []m.PortBinding `json:"ports,omitempty"`
	Events   string          `json:"events,omitempty"` // the file
	Warnings []string        `json:"warnings,omitempty"`
}

func newInspect(c *console) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect SANDBOX…",
		Short:             "Print all that is known of sandboxes, as JSON",
		Args:              takes(1, many),
		ValidArgsFunction: completeNames(false, 100),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := []inspectedSandbox{}
			for _, name := range args {
				h, err := m.GetSandbox(cmd.Context(), name)
				if err != nil {
					return err
				}
				found := inspectedSandbox{listedSandbox: listed(h), Config: json.RawMessage(h.ConfigJSON())}
				if runs(h) {
					err = withSandbox(cmd.Context(), name, func(sb *m.Sandbox) (err error) {
						found.Events, found.Warnings = sb.EventsPath(), sb.Warnings()
						found.Ports, err = sb.Ports().List(cmd.Context())
						return err
					})
				}
				if err != nil {
					return err
				}
				all = append(all, found)
			}
			e := json.NewEncoder(c.out)
			e.SetIndent("", "  ")
			return e.Encode(all)
		},
	}
}
