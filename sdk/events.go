package sdk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"

	"github.com/sluicenet/sluice/internal/control"
)

// An EventFilter says which events are wanted. The zero EventFilter means all,
// from the first on.
type EventFilter struct {
	// Types are the types of events, or their beginnings up to a dot: flow.deny,
	// or flow for all of flows; or EventDenied. None means all.
	Types []string
	// Denied leaves out what doesn't tell of a denial.
	Denied bool
	// From is the number of the first event; what has been dropped since is left
	// out. New leaves out what was before, Past what is to come.
	From      int64
	New, Past bool
}

// query returns the filter as the sandbox takes it.
func (f EventFilter) query() control.EventQuery {
	q := control.EventQuery{From: max(f.From, 0), Types: f.Types, Denied: f.Denied, Follow: !f.Past}
	if f.New {
		q.From = -1
	}
	return q
}

// matches reports whether e is wanted, whenever it was.
func (f EventFilter) matches(e Event) bool { return f.query().Wants(e.Type, e.Denies()) }

// handedTypes returns the types of the events that are handed over as they come: to
// the function of WithEvents, the logger, or both.
func (c *SandboxConfig) handedTypes() []string {
	logged := []string{EventWarning, EventLog} // see Event.log
	switch {
	case c.events == nil:
		return logged
	case c.logger == nil || len(c.eventTypes) == 0:
		return c.eventTypes
	}
	return slices.Concat(c.eventTypes, logged)
}

// Events returns the sandbox's events: those that were, then those to come, until
// its end. A reader that is slow delays nothing but itself: what piles up beyond
// a bound is dropped, and an event says how many. The sequence begins when it is
// ranged over; an error ends it, ctx's end being one.
//
//	for e, err := range sb.Events(ctx, m.EventFilter{Denied: true}) {
func (s *Sandbox) Events(ctx context.Context, filter EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := s.events(ctx, filter, yield); err != nil {
			yield(Event{}, err)
		}
	}
}

// events yields the events that the filter wants.
func (s *Sandbox) events(ctx context.Context, filter EventFilter, yield func(Event, error) bool) error {
	const verb = "read events of"
	if err := s.usable(verb); err != nil {
		return err
	}
	stream, err := s.client.Events(ctx, filter.query())
	if err != nil {
		return s.failure(verb, err)
	}
	defer stream.Close()
	err = eachEvent(stream, func(e Event) bool { return yield(e, nil) })
	switch {
	case ctx.Err() != nil:
		return s.failure(verb, control.Cause(ctx))
	case err != nil: // the stream is cut off
		return s.failure(verb, fmt.Errorf("%w: %w", control.ErrGone, err))
	}
	return nil
}

// pastEvents yields the events that the file at path, and the one before it, hold
// and the filter wants.
func pastEvents(ctx context.Context, path string, filter EventFilter, yield func(Event, error) bool) error {
	if filter.New {
		return nil
	}
	// When the file becomes the one before between these, both are the same:
	// numbers tell.
	current, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open events: %w", err)
	}
	defer current.Close() // only read
	next, more := max(filter.From, 0), true
	each := func(f *os.File) error {
		return eachEvent(f, func(e Event) bool {
			if ctx.Err() != nil || e.Seq >= 0 && e.Seq < next {
				return ctx.Err() == nil
			}
			next = max(next, e.Seq+1)
			more = !filter.matches(e) || yield(e, nil)
			return more
		})
	}
	before, err := os.Open(path + ".1")
	switch {
	case err == nil:
		defer before.Close() // only read
		err = each(before)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err == nil && more {
		err = each(current)
	}
	if ctx.Err() != nil {
		return control.Cause(ctx)
	}
	return err
}
