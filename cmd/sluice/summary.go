package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	m "github.com/sluicenet/sluice/sdk"
)

// maxRows bounds the different targets that a summary tells apart.
const maxRows = 1000

// A summary counts flows and denied queries by target. Its zero value is ready.
type summary struct {
	rows    map[rowKey]*row
	open    map[uint64]*row // of flows that are open, by ID: a name learnt later changes no row
	denials uint64          // all of them, beyond maxRows too
	flows   uint64          // allowed
	other   uint64          // what found no row
}

// A rowKey is what a row is about.
type rowKey struct {
	Verdict  string `json:"verdict"`  // allowed or denied
	Protocol string `json:"protocol"` // tcp, udp, icmpv4, icmpv6 or dns
	Target   string `json:"target"`
}

// A row of a summary.
type row struct {
	rowKey
	Count    uint64 `json:"count"`
	BytesOut uint64 `json:"bytes_out"` // from the guest
	BytesIn  uint64 `json:"bytes_in"`  // to the guest
	Rule     string `json:"rule"`      // that decided the first
}

// add counts an event, if it is about a flow or a denial.
func (s *summary) add(e m.Event) {
	switch {
	case e.Denies():
		s.denials++
		if r := s.row("denied", e); r != nil {
			r.Count++
		}
	case e.Type == m.EventFlowOpen:
		s.flows++
		if r := s.row("allowed", e); r != nil {
			r.Count++
			s.open[e.Flow.ID] = r
		}
	case e.Type == m.EventFlowClose:
		if r := s.open[e.Flow.ID]; r != nil {
			r.BytesOut += e.Flow.BytesOut
			r.BytesIn += e.Flow.BytesIn
			delete(s.open, e.Flow.ID)
		}
	}
}

// complete counts, from the sandbox's end, what no event told of: events that were
// dropped, and allowed flows unless listed says that they were asked for. A sandbox
// that crashed has counted nothing.
func (s *summary) complete(end *m.SandboxStopResult, listed bool) {
	denials, flows := end.Denied-min(s.denials, end.Denied), end.Allowed-min(s.flows, end.Allowed)
	s.denials, s.flows = s.denials+denials, s.flows+flows
	s.other += denials
	if listed {
		s.other += flows
	}
}

// row returns the row of an event, nil if there are too many.
func (s *summary) row(verdict string, e m.Event) *row {
	n := noticeOf(e)
	key := rowKey{verdict, n.protocol, n.target}
	if r := s.rows[key]; r != nil {
		return r
	}
	if len(s.rows) >= maxRows {
		s.other++
		return nil
	}
	if s.rows == nil {
		s.rows, s.open = make(map[rowKey]*row), make(map[uint64]*row)
	}
	r := &row{rowKey: key, Rule: because(e.Verdict)}
	s.rows[key] = r
	return r
}

// sorted returns the rows: denied first, then the most frequent.
func (s *summary) sorted() []*row {
	rows := make([]*row, 0, len(s.rows))
	for _, r := range s.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *row) int {
		return cmp.Or(
			-cmp.Compare(a.Verdict, b.Verdict),
			-cmp.Compare(a.Count, b.Count),
			cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.Target, b.Target),
		)
	})
	return rows
}

// print prints the summary on the console's err: as text, md or json, or, with
// "", what was denied, if anything was.
func (s *summary) print(c *console, format string) {
	switch format {
	case "json":
		s.printJSON(c)
	case "md":
		s.printMarkdown(c)
	case "text":
		s.printText(c, s.sorted())
	default:
		denied := slices.DeleteFunc(s.sorted(), func(r *row) bool { return r.Verdict != "denied" })
		if len(denied) > 0 && !c.quiet {
			s.printText(c, denied)
		}
	}
}

func (s *summary) printText(c *console, rows []*row) {
	c.line("33", "%s", s.headline())
	t := tabwriter.NewWriter(c.err, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(t, "  %s\t%d×\t%s\t%s\t%s\n", r.Verdict, r.Count, r.Protocol, printable(r.Target), r.Rule)
	}
	_ = t.Flush() // nobody reads, then
}

func (s *summary) printMarkdown(c *console) {
	fmt.Fprintf(c.err, "### sluice: %s\n\n| | count | protocol | target | bytes out | bytes in | rule |\n|---|---:|---|---|---:|---:|---|\n", s.headline())
	for _, r := range s.sorted() {
		cell := strings.NewReplacer("|", "\\|", "`", "'").Replace
		fmt.Fprintf(c.err, "| %s | %d | %s | `%s` | %d | %d | %s |\n", r.Verdict, r.Count, r.Protocol, cell(printable(r.Target)), r.BytesOut, r.BytesIn, cell(r.Rule))
	}
}

// jsonSummary is the summary as one object.
type jsonSummary struct {
	Allowed uint64 `json:"allowed"` // flows
	Denied  uint64 `json:"denied"`  // flows and queries
	Other   uint64 `json:"other"`   // of them, those that are in no row
	Rows    []*row `json:"rows"`
}

func (s *summary) printJSON(c *console) {
	enc := json.NewEncoder(c.err)
	_ = enc.Encode(jsonSummary{s.flows, s.denials, s.other, s.sorted()}) // nobody reads, then
}

// headline says how much there was.
func (s *summary) headline() string {
	text := fmt.Sprintf("%s allowed, %d denied", plural(s.flows, "flow"), s.denials)
	if s.other > 0 {
		text += fmt.Sprintf(", %d of them not listed", s.other)
	}
	return text
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
