package sandbox

import (
	"context"
	"log/slog"
	"time"
)

// An eventHandler writes remarks as events of type sandbox.log, so that they
// reach whoever reads events, over the process's border too.
type eventHandler struct {
	events *recorder
	level  slog.Level  // the least that becomes an event
	attrs  []slog.Attr // of WithAttrs, below their groups
	group  string      // prefix of attributes: names of groups, each with a dot
}

// Enabled implements slog.Handler.
func (h *eventHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// Handle implements slog.Handler.
func (h *eventHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := make(map[string]any, len(h.attrs)+r.NumAttrs())
	for _, a := range h.attrs {
		put(attrs, "", a)
	}
	r.Attrs(func(a slog.Attr) bool {
		put(attrs, h.group, a)
		return true
	})
	h.events.emit(record{Type: typeLog, Time: r.Time, Level: r.Level.String(), Message: r.Message, Attrs: attrs})
	return nil
}

// put files an attribute under its name; a group's attributes have its name and
// a dot before theirs.
func put(attrs map[string]any, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		attrs[prefix+a.Key] = v.String() // any other value might refuse to be encoded
		return
	}
	for _, inner := range v.Group() {
		put(attrs, prefix+a.Key+".", inner)
	}
}

// WithAttrs implements slog.Handler.
func (h *eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = append([]slog.Attr(nil), h.attrs...)
	for _, a := range attrs {
		a.Key = h.group + a.Key
		next.attrs = append(next.attrs, a)
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *eventHandler) WithGroup(name string) slog.Handler {
	next := *h
	next.group += name + "."
	return &next
}

// report tells what went wrong when there are no events any more.
func (s *Sandbox) report(what string, err error) {
	if s.remark != nil {
		s.remark.Warn(what, "sandbox", s.spec.Name, "error", err, "time", time.Now())
	}
}
