package control

import (
	"bufio"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// TestEventStream checks that events come from the number asked for until the
// sandbox's end.
func TestEventStream(t *testing.T) {
	t.Parallel()
	sb := newStub()
	sb.lines = []string{`{"seq":0}`, `{"seq":1}`, `{"seq":2}`}
	c := serve(t, sb)
	stream, err := c.Events(t.Context(), EventQuery{From: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for _, want := range sb.lines[1:] {
		if got, err := lines.ReadString('\n'); err != nil || got != want+"\n" {
			t.Errorf("line %q, %v, want %q", got, err, want)
		}
	}
	past, err := c.Events(t.Context(), EventQuery{From: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close()
	if got, err := io.ReadAll(past); err != nil || string(got) != sb.lines[2]+"\n" {
		t.Errorf("what there is: %q, %v", got, err)
	}
	close(sb.over)
	if _, err := lines.ReadString('\n'); err != io.EOF {
		t.Errorf("behind the last event: %v, want EOF", err)
	}
}

// TestWants checks which events a query asks for.
func TestWants(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		types  string
		denied bool
		event  string // with a ! before it, one that tells of a denial
		want   bool
	}{
		{"", false, "flow.open", true},
		{"flow.open", false, "flow.open", true},
		{"flow.open", false, "flow.close", false},
		{"flow", false, "flow.close", true},
		{"flow", false, "flower.close", false},
		{"flow.", false, "flow.close", false},
		{"flow.open.it", false, "flow.open", false},
		{"dns,flow", false, "!flow.deny", true},
		{"dns,warning", false, "!flow.deny", false},
		{"denied", false, "!flow.deny", true},
		{"denied", false, "dns.query", false},
		{"warning,denied", false, "!dns.query", true},
		{"warning,denied", false, "warning", true},
		{"", true, "flow.open", false},
		{"", true, "!flow.deny", true},
		{"dns", true, "!flow.deny", false},
		{"dns", true, "!dns.query", true},
		{"dns", true, "dns.query", false},
	} {
		q := EventQuery{Denied: tt.denied}
		if tt.types != "" {
			q.Types = strings.Split(tt.types, ",")
		}
		event, denies := strings.CutPrefix(tt.event, "!")
		if got := q.Wants(event, denies); got != tt.want {
			t.Errorf("%+v wants %s: %v, want %v", q, tt.event, got, tt.want)
		}
	}
	if (EventQuery{Types: []string{""}}).Wants("flow.open", false) {
		t.Error("a type without a name is all types")
	}
}

// TestEventQuery checks that a query survives its way through a URL, and what one
// by hand means.
func TestEventQuery(t *testing.T) {
	t.Parallel()
	for _, q := range []EventQuery{
		{},
		{From: -1, Follow: true},
		{From: 7, Types: []string{"flow.deny", "dns"}, Denied: true},
		{Types: []string{""}, Follow: true},
	} {
		if got, err := parseEventQuery(q.values()); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%+v, %v, want %+v", got, err, q)
		}
	}
	if got, err := parseEventQuery(url.Values{}); err != nil || !reflect.DeepEqual(got, EventQuery{From: -1, Follow: true}) {
		t.Errorf("without parameters: %+v, %v", got, err)
	}
}
