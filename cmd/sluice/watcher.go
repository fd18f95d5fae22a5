package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"

	m "github.com/sluicenet/sluice/sdk"
)

// maxNotices bounds how many different denials are told at once; the summary has
// the rest. Whoever scans a network must not fill a log.
const maxNotices = 100

// A watcher reads a sandbox's events: it writes them to --events, tells each
// new denial at once, and counts for the summary. Event is called from one
// goroutine, the rest after the sandbox's end.
type watcher struct {
	c        *console
	implicit bool // the policy is the default one
	verbose  bool
	format   string // of the summary; "" prints denials only

	lines   *bufio.Writer // for --events; nil without
	file    io.Closer     // below lines; nil for standard output
	failed  error         // the first failure to write
	told    map[notice]bool
	summary summary
	// violation is the secret, and the host it was on its way to, that ended the
	// sandbox.
	violation *m.EventSecret
}

// newWatcher opens what the flags name.
func newWatcher(c *console, f *runFlags) (*watcher, error) {
	w := &watcher{
		c:        c,
		implicit: f.network.implicit(),
		verbose:  f.verbose,
		format:   f.summary,
		told:     make(map[notice]bool),
	}
	switch f.events {
	case "":
	case "-":
		w.lines = bufio.NewWriter(c.out)
	default:
		file, err := os.Create(f.events)
		if err != nil {
			return nil, fmt.Errorf("--events: %w", err)
		}
		w.lines, w.file = bufio.NewWriter(file), file
	}
	return w, nil
}

// types returns the types of the events that the watcher has to see, none for all. A
// guest may open thousands of flows a second: to read of each in order to count them
// would cost a tenth of what they cost, so only a summary that lists them does.
func (w *watcher) types() []string {
	if w.lines != nil || w.verbose {
		return nil
	}
	told := []string{
		m.EventDenied, m.EventDropped, m.EventLimitHit, m.EventWarning,
		m.EventSecretBlock, m.EventSecretSkip, m.EventTLSFail,
	}
	if w.format != "" {
		told = append(told, m.EventFlowOpen, m.EventFlowClose)
	}
	return told
}

// event takes one event.
func (w *watcher) event(e m.Event) {
	if w.lines != nil {
		w.write(e.Line())
	}
	w.summary.add(e)
	switch {
	case e.Denies():
		w.tell(e)
	case e.Type == m.EventDropped:
		w.c.notef("%d events were lost: the machine was too busy to write them", e.Count)
	case e.Type == m.EventLimitHit:
		w.once(notice{"limit", e.Limit}, limitText(e.Limit))
	case e.Secret != nil && (e.Type == m.EventSecretBlock || e.Type == m.EventSecretSkip):
		if e.Secret.Action == m.ViolationActionBlockAndTerminate {
			w.violation = e.Secret
		}
		w.once(notice{e.Type, e.Secret.Secret + " " + e.Secret.Name}, secretText(e))
	case e.TLS != nil && e.Type == m.EventTLSFail:
		w.once(notice{e.Type, e.TLS.Leg + " " + e.TLS.Name}, tlsText(e))
	case e.Type == m.EventWarning:
		w.c.notef("warning: %s", printable(e.Message))
	case w.verbose:
		w.describe(e)
	}
}

// write writes an event's line, at once: somebody may follow the file.
func (w *watcher) write(line []byte) {
	_, err1 := w.lines.Write(line)
	err2 := w.lines.WriteByte('\n')
	if err := errors.Join(err1, err2, w.lines.Flush()); err != nil && w.failed == nil {
		w.failed = fmt.Errorf("--events: %w", err)
	}
}

// close prints the summary and closes the file; end is the sandbox's, nil if there
// was none.
func (w *watcher) close(end *m.SandboxStopResult) error {
	if end != nil {
		w.summary.complete(end, w.format != "")
		w.summary.print(w.c, w.format)
	}
	if w.file != nil {
		w.failed = errors.Join(w.failed, w.file.Close())
	}
	return w.failed
}

// ended returns what a command comes to whose sandbox has ended before it: the
// exit code, and the reason in place of err, which knows none.
func (w *watcher) ended(end *m.SandboxStopResult, code int, err error) (int, error) {
	if end == nil || end.Source == nil {
		return code, err
	}
	switch *end.Source {
	case "violation":
		if v := w.violation; v != nil {
			return code, fmt.Errorf("secret %s ended the sandbox on its way to %s; if that host may have it, add it to --secret %[1]s@…", v.Secret, printable(v.Name))
		}
		return code, errors.New("a secret on its way to a host that isn't its own ended the sandbox")
	case "limit":
		return code, errors.New("the sandbox's time was over; --max-duration gives it another")
	case "kill":
		return 128 + int(syscall.SIGKILL), errors.New("the sandbox was killed")
	case "stop", "drain", "signal":
		return 128 + int(syscall.SIGTERM), errors.New("the sandbox was stopped")
	}
	return code, err
}

// A notice is what makes a denial another one.
type notice struct{ protocol, target string }

// tell prints a denial, if it is a new one.
func (w *watcher) tell(e m.Event) {
	n := noticeOf(e)
	if w.told[n] || len(w.told) > maxNotices {
		return
	}
	w.told[n] = true
	if len(w.told) > maxNotices {
		w.c.notef("denied more than %d targets; the summary counts the rest", maxNotices)
		return
	}
	text := fmt.Sprintf("denied %s %s", n.protocol, printable(n.target))
	if e.Flow != nil {
		text += group(e)
	}
	text += ": " + because(e.Verdict)
	if flag := w.remedy(e); flag != "" {
		text += "; to allow it: " + flag
	}
	w.c.notef("%s", text)
}

// once prints a remark, the first time only, and not beyond maxNotices.
func (w *watcher) once(n notice, text string) {
	if w.told[n] || len(w.told) > maxNotices {
		return
	}
	w.told[n] = true
	w.c.notef("%s", text)
}

// limitText says which bound the guest ran into, and the flag that raises it.
func limitText(limit string) string {
	text := "the guest ran into the limit " + printable(limit)
	if limit == "MaxConnections" {
		text += "; --max-connections raises it"
	}
	return text
}

// secretText says what became of a placeholder that wasn't replaced.
func secretText(e m.Event) string {
	s := e.Secret
	place := s.Place
	if s.Header != "" {
		place += " " + printable(s.Header)
	}
	if e.Type == m.EventSecretSkip {
		return fmt.Sprintf("secret %s: sent to %s as its placeholder, in the %s: %s", s.Secret, printable(s.Name), place, s.Reason)
	}
	text := fmt.Sprintf("secret %s: its placeholder was on its way to %s, in the %s: blocked", s.Secret, printable(s.Name), place)
	if s.Action == m.ViolationActionBlockAndTerminate {
		return text + ", and the sandbox ended"
	}
	return text + blockedBecause[s.Reason]
}

// blockedBecause says what a reason to block a placeholder leaves to its user.
var blockedBecause = map[string]string{
	"unlisted":   "; if that host may have the value, add it to --secret",
	"unverified": "; the host may have the value, but only by https, where it proves to be that host",
	"encoded":    "; nothing can be replaced in a compressed body",
	"framing":    "; nothing can be replaced there in this spelling",
}

// tlsText says why a connection that is read could not be had, and what helps.
func tlsText(e m.Event) string {
	text := fmt.Sprintf("TLS of %s: %s", printable(e.TLS.Name), printable(e.TLS.Reason))
	if e.TLS.Fix != "" {
		text += "; " + printable(fixInFlags(e.TLS.Fix, e.TLS.Name))
	}
	return text
}

// noticeOf returns what was denied.
func noticeOf(e m.Event) notice {
	if e.Type == m.EventDNSQuery {
		return notice{"dns", e.DNS.Name}
	}
	f := e.Flow
	if f.Direction == m.PolicyDirectionIngress {
		return notice{string(f.Protocol), f.Src.Addr.String() + " to guest port " + strconv.Itoa(int(f.Dst.Port))}
	}
	return notice{string(f.Protocol), target(f.Dst)}
}

// target returns an end as --allow takes it: the name the guest used, or the
// address, and the port.
func target(end m.EventEnd) string {
	host := end.Name
	if host == "" {
		host = end.Addr.String()
	}
	if end.Port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(end.Port)))
}

// group returns the group of a flow's peer, in parentheses.
func group(e m.Event) string {
	g := e.Flow.Dst.Group
	if e.Flow.Direction == m.PolicyDirectionIngress {
		g = e.Flow.Src.Group
	}
	if g == "" {
		return ""
	}
	return " (" + g + ")"
}

// because returns the reason of a verdict in words.
func because(v *m.EventVerdict) string {
	switch {
	case v == nil:
		return "no reason given"
	case v.Text != "":
		return fmt.Sprintf("%s says %q", v.Source, v.Text)
	case v.Reason != "":
		return fmt.Sprintf("%s (%s)", v.Source, v.Reason)
	}
	return v.Source
}

// describe prints an event that isn't worth a line without --verbose.
func (w *watcher) describe(e m.Event) {
	switch e.Type {
	case m.EventFlowOpen:
		w.c.notef("allowed %s %s%s: %s", e.Flow.Protocol, printable(target(e.Flow.Dst)), group(e), because(e.Verdict))
	case m.EventDNSQuery:
		w.c.notef("dns %s %s: %s", e.DNS.Type, printable(e.DNS.Name), e.DNS.RCode)
	case m.EventLog:
		w.c.notef("%s: %s", e.Level, printable(e.Message))
	case m.EventPortPublish:
		w.c.notef("published %v for guest port %d", e.Port.Host, e.Port.GuestPort)
	}
}
