package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	m "github.com/sluicenet/sluice/sdk"
)

func newEvents(c *console) *cobra.Command {
	var filter m.EventFilter
	var follow bool
	cmd := &cobra.Command{
		Use:   "events [flags] [SANDBOX]",
		Short: "Print the events of a sandbox, as JSON lines",
		Long: `Print the events of a sandbox, as JSON lines: of one that runs, or of its last
run if it was kept. Without a name, of the only one that runs.`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkTypes(filter.Types); err != nil {
				return err
			}
			return eachEvent(cmd.Context(), c, args, filter, follow, func(e m.Event) error {
				_, err := fmt.Fprintf(c.out, "%s\n", e.Line())
				return err
			})
		},
		ValidArgsFunction: completeNames(false, 1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on as more happens, until the sandbox's end")
	flags.StringSliceVar(&filter.Types, "type", nil, "only of a `TYPE`: flow.deny, flow for all of flows, or denied")
	flags.BoolVar(&filter.Denied, "denied", false, "only what tells of a denial")
	flags.BoolVar(&filter.New, "new", false, "leave out what was before; with --follow")
	return cmd
}

// eventTypes are the types of events that --type takes, and their families.
var eventTypes = []string{
	"flow", m.EventFlowOpen, m.EventFlowDeny, m.EventFlowClose,
	"dns", m.EventDNSQuery,
	"tls", m.EventTLSIntercept, m.EventTLSBypass, m.EventTLSFail,
	"http", m.EventHTTPRequest,
	"secret", m.EventSecretInject, m.EventSecretSkip, m.EventSecretBlock, m.EventSecretRedact, m.EventSecretUnscanned,
	"policy", m.EventPolicyUpdate,
	"limit", m.EventLimitHit,
	"port", m.EventPortPublish, m.EventPortUnpublish,
	"sandbox", m.EventSandboxStarted, m.EventSandboxStopped, m.EventLog,
	"events", m.EventDropped,
	m.EventWarning, m.EventDenied,
}

// checkTypes reports a type that no event has: nothing would ever be printed.
func checkTypes(types []string) error {
	for _, t := range types {
		if !slices.Contains(eventTypes, t) {
			return fmt.Errorf("--type %q: no such type; there are %s", t, strings.Join(eventTypes, ", "))
		}
	}
	return nil
}

// eachEvent calls do with the events of a sandbox that the filter wants: those
// that are there, and with follow those to come, as long as somebody reads the
// console's out.
func eachEvent(ctx context.Context, c *console, args []string, filter m.EventFilter, follow bool, do func(m.Event) error) error {
	name, err := theOnly(ctx, args)
	if err != nil {
		return err
	}
	h, err := m.GetSandbox(ctx, name)
	if err != nil {
		return err
	}
	if !runs(h) { // what it was told of is in its file
		return eachOf(h.Events(ctx, filter), do)
	}
	sb, err := h.Connect(ctx)
	if err != nil {
		return err
	}
	filter.Past = !follow
	ctx, stop := c.whileRead(ctx)
	defer stop()
	return errors.Join(eachOf(sb.Events(ctx, filter), do), sb.Close())
}

// eachOf calls do with all that a sequence has, until an error.
func eachOf[T any](all iter.Seq2[T, error], do func(T) error) error {
	for one, err := range all {
		if err != nil {
			return err
		}
		if err := do(one); err != nil {
			return err
		}
	}
	return nil
}

// flowFlags are the flags of sluice flows.
type flowFlags struct {
	output
	follow  bool
	verdict string
}

func newFlows(c *console) *cobra.Command {
	var f flowFlags
	cmd := &cobra.Command{
		Use:   "flows [flags] [SANDBOX]",
		Short: "Show what a sandbox is connected to, and what it tried",
		Long: `Show the flows of a running sandbox that are open. With --verdict, or with
--follow, show decisions instead: each flow that was allowed or denied, and the
rule; of a sandbox that was kept those of its last run. Without a name, of the
only sandbox that runs.`,
		Example: `  sluice flows worker
  sluice flows worker --verdict deny
  sluice flows worker -f`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.follow || f.verdict != "" {
				return f.decisions(cmd.Context(), c, args)
			}
			return f.open(cmd.Context(), c, args)
		},
		ValidArgsFunction: completeNames(false, 1),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on as flows come, until the sandbox's end")
	flags.StringVar(&f.verdict, "verdict", "", "only decisions that `ACTION`: allow or deny")
	f.register(flags)
	return cmd
}

// openFlow is a flow as flows prints it.
type openFlow struct {
	ID        uint64            `json:"id"`
	Direction m.PolicyDirection `json:"direction"`
	Protocol  m.PolicyProtocol  `json:"protocol"`
	Source    string            `json:"src"`
	Peer      string            `json:"dst"` // by name, where it is known
	Addr      string            `json:"dst_addr"`
	BytesOut  uint64            `json:"bytes_out"`
	BytesIn   uint64            `json:"bytes_in"`
	Seconds   float64           `json:"age_s"`
}

// open prints the flows that are open.
func (f *flowFlags) open(ctx context.Context, c *console, args []string) error {
	name, err := theOnly(ctx, args)
	if err != nil {
		return err
	}
	return withSandbox(ctx, name, func(sb *m.Sandbox) error {
		flows, err := sb.Flows(ctx)
		if err != nil {
			return err
		}
		var rows []openFlow
		for _, flow := range flows {
			rows = append(rows, shownFlow(flow))
		}
		return printRows(c, &f.output, "DIRECTION\tPROTOCOL\tFROM\tTO\tOUT\tIN\tAGE", rows, func(r openFlow) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", r.Direction, r.Protocol, r.Source, printable(r.Peer),
				byteCount(r.BytesOut), byteCount(r.BytesIn), time.Duration(r.Seconds*float64(time.Second)).Round(100*time.Millisecond))
		})
	})
}

// shownFlow returns a flow as it is printed.
func shownFlow(flow m.Flow) openFlow {
	peer := endText(flow.Dst)
	if flow.Name != "" {
		peer = net.JoinHostPort(flow.Name, strconv.Itoa(int(flow.Dst.Port())))
	}
	return openFlow{
		ID:        flow.ID,
		Direction: flow.Direction,
		Protocol:  flow.Protocol,
		Source:    endText(flow.Src),
		Peer:      peer,
		Addr:      endText(flow.Dst),
		BytesOut:  flow.BytesOut,
		BytesIn:   flow.BytesIn,
		Seconds:   flow.Age.Seconds(),
	}
}

// endText returns an end of a flow; ICMP has no ports.
func endText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// byteCount returns n in a unit that keeps it short.
func byteCount(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	unit, x := 0, float64(n)
	for ; x >= 1<<10 && unit < 4; unit++ {
		x /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", x, " KMGT"[unit])
}

// decisions prints what was decided, a line each.
func (f *flowFlags) decisions(ctx context.Context, c *console, args []string) error {
	asJSON, err := f.asJSON()
	if err != nil {
		return err
	}
	filter := m.EventFilter{Types: []string{m.EventFlowOpen, m.EventFlowDeny, m.EventDNSQuery}}
	switch f.verdict {
	case "":
	case "allow":
		filter.Types = []string{m.EventFlowOpen}
	case "deny":
		filter.Denied = true
	default:
		return fmt.Errorf("--verdict %q: want allow or deny", f.verdict)
	}
	return eachEvent(ctx, c, args, filter, f.follow, func(e m.Event) error {
		if e.Type == m.EventDNSQuery && !e.Denies() {
			return nil // that a name was resolved is no flow
		}
		if asJSON {
			_, err := fmt.Fprintf(c.out, "%s\n", e.Line())
			return err
		}
		return printDecision(c, e)
	})
}

// printDecision prints an event in a line.
func printDecision(c *console, e m.Event) error {
	action := "allow"
	if e.Denies() {
		action = "deny"
	}
	n := noticeOf(e)
	where := ""
	if e.Flow != nil {
		where = group(e)
	}
	line := []string{e.Time.Local().Format("15:04:05.000"), fmt.Sprintf("%-5s", action), n.protocol, printable(n.target) + where + ":", because(e.Verdict)}
	_, err := fmt.Fprintln(c.out, strings.Join(line, " "))
	return err
}
