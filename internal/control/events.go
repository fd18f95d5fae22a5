package control

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// EventDenied stands, among types of events, for what tells of a denial: some of the
// lookups are a dns.query that does.
const EventDenied = "denied"

// An EventQuery says which events are wanted. The zero EventQuery means all that
// are there. What it leaves out is never sent, so that a guest with thousands of
// flows a second costs a reader nothing who asks for warnings.
type EventQuery struct {
	From   int64    // number of the first; negative is the next one
	Types  []string // or their beginnings up to a dot, flow for flow.deny, or EventDenied; none means all
	Denied bool     // only what tells of a denial
	Follow bool     // go on with what is to come
}

// Wants reports whether an event of a type is wanted, wherever it stands; denies
// says whether it tells of a denial.
func (q EventQuery) Wants(typ string, denies bool) bool {
	if q.Denied && !denies {
		return false
	}
	return len(q.Types) == 0 || slices.ContainsFunc(q.Types, func(want string) bool {
		if want == EventDenied {
			return denies
		}
		rest, ok := strings.CutPrefix(typ, want)
		return ok && (rest == "" || rest[0] == '.')
	})
}

// values returns the query as a URL has it.
func (q EventQuery) values() url.Values {
	v := url.Values{"from": {strconv.FormatInt(q.From, 10)}, "follow": {strconv.FormatBool(q.Follow)}}
	if len(q.Types) > 0 {
		v.Set("types", strings.Join(q.Types, ","))
	}
	if q.Denied {
		v.Set("denied", "true")
	}
	return v
}

// parseEventQuery reads what values returns. What isn't there is what somebody who
// looks by hand wants: all that is to come.
func parseEventQuery(v url.Values) (EventQuery, error) {
	q := EventQuery{From: -1}
	if text := v.Get("from"); text != "" {
		var err error
		if q.From, err = strconv.ParseInt(text, 10, 64); err != nil {
			return q, &Failure{Kind: KindArgument, Message: fmt.Sprintf("from: %q: want the number of an event", text)}
		}
	}
	if v.Has("types") {
		q.Types = strings.Split(v.Get("types"), ",")
	}
	var err error
	if q.Denied, err = parseFlag(v, "denied", false); err != nil {
		return q, err
	}
	q.Follow, err = parseFlag(v, "follow", true)
	return q, err
}

// parseFlag reads a parameter that is true or false; without it, it is absent.
func parseFlag(v url.Values, name string, absent bool) (bool, error) {
	text := v.Get(name)
	if text == "" {
		return absent, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, &Failure{Kind: KindArgument, Message: fmt.Sprintf("%s: %q: want true or false", name, text)}
	}
	return value, nil
}

// Events opens the stream of the events that q asks for, JSON lines. It returns
// when nothing from then on is missed. The stream ends with the last event, or with
// ctx; the caller closes it.
func (c *Client) Events(ctx context.Context, q EventQuery) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/events?"+q.values().Encode(), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// events answers with a stream of events.
func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	q, err := parseEventQuery(r.URL.Query())
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.Flush() // the header tells the client that nothing from now on is missed
	// The status is sent, so an error can only end the stream.
	_ = h.sb.Events(r.Context(), q, func(lines []byte) error {
		if _, err := w.Write(lines); err != nil {
			return err
		}
		return rc.Flush()
	})
}
