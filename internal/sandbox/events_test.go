package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/policy"
)

func newTestRecorder(t *testing.T) (*recorder, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	r, err := newRecorder("test", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r, path
}

// decode returns the lines as records.
func decode(t *testing.T, lines []byte) []record {
	t.Helper()
	var all []record
	for line := range bytes.Lines(lines) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// readAll returns all lines that a reader gets from number from on until the
// recorder is closed.
func readAll(t *testing.T, r *recorder, from int64) []byte {
	t.Helper()
	var all []byte
	if err := r.read(t.Context(), control.EventQuery{From: from, Follow: true}, func(lines []byte) error { all = append(all, lines...); return nil }); err != nil {
		t.Error(err)
	}
	return all
}

// TestRecorder checks that file and readers get every event once, in order and
// numbered.
func TestRecorder(t *testing.T) {
	t.Parallel()
	r, path := newTestRecorder(t)
	const n = 1000
	early := make(chan []byte, 1)
	go func() { early <- readAll(t, r, 0) }()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				r.emit(record{Type: typeWarning, Time: time.Unix(1, 0), Message: "x"})
			}
		})
	}
	wg.Wait()
	r.close()
	r.close()
	r.emit(record{Type: typeWarning}) // and is ignored
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-early; !bytes.Equal(got, file) {
		t.Errorf("a reader has %d bytes, the file %d", len(got), len(file))
	}
	if late := readAll(t, r, 0); !bytes.Equal(late, file) {
		t.Errorf("a late reader has %d bytes, the file %d", len(late), len(file))
	}
	records := decode(t, file)
	if len(records) != n {
		t.Fatalf("%d events, want %d", len(records), n)
	}
	for i, rec := range records {
		if rec.Seq != int64(i) || rec.Version != 1 || rec.Sandbox != "test" {
			t.Fatalf("event %d: %+v", i, rec)
		}
	}
	if tail := decode(t, readAll(t, r, n-2)); len(tail) != 2 || tail[0].Seq != n-2 {
		t.Errorf("from %d on: %+v", n-2, tail)
	}
	if none := readAll(t, r, n); none != nil {
		t.Errorf("behind the last: %q", none)
	}
}

// TestRecorderNeverWaits checks that events which find no room are counted, said
// and, if they are denials, still count as such.
func TestRecorderNeverWaits(t *testing.T) {
	t.Parallel()
	r := &recorder{sandbox: "test", queue: make(chan record, 2), done: make(chan struct{}), ring: make([]ringLine, ringLength), changed: make(chan struct{})}
	for i := range 5 { // nobody receives yet
		r.emit(record{Type: typeDeny, Limit: fmt.Sprint(i)})
	}
	if got := r.denied.Load(); got != 5 {
		t.Errorf("%d denials, want 5", got)
	}
	var err error
	if r.file, err = createRotating(filepath.Join(t.TempDir(), "e"), 1<<20); err != nil {
		t.Fatal(err)
	}
	go r.run()
	for range ringLength { // until there is room again
		r.emit(record{Type: typeWarning})
		if r.lost.Load() == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.close()
	var dropped uint64
	kept := 0
	for _, rec := range decode(t, readAll(t, r, 0)) {
		switch rec.Type {
		case typeDropped:
			dropped += rec.Count
		case typeDeny:
			kept++
		}
	}
	if kept != 2 || dropped < 3 {
		t.Errorf("%d kept and %d said to be dropped, want 2 and at least 3", kept, dropped)
	}
}

// TestSlowReader checks that a reader who falls behind the ring is told how many
// it missed.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	r, _ := newTestRecorder(t)
	const n = ringLength + 500
	for range n {
		for r.lost.Load() > 0 || len(r.queue) > queueLength/2 {
			time.Sleep(time.Millisecond)
		}
		r.emit(record{Type: typeWarning})
	}
	r.close()
	got := decode(t, readAll(t, r, 0))
	if got[0].Type != typeDropped || got[0].Count != 500 || got[0].Seq != -1 || got[1].Seq != 500 || len(got) != ringLength+1 {
		t.Errorf("%d events, the first %+v, then %+v", len(got), got[0], got[1])
	}
}

// TestReadersChoose checks that readers get what they ask for, and that counters
// tell of the rest.
func TestReadersChoose(t *testing.T) {
	t.Parallel()
	r, _ := newTestRecorder(t)
	deny := &recordVerdict{Action: policy.Deny.String()}
	for _, rec := range []record{
		{Type: typeOpen}, {Type: typeDeny}, {Type: "flow.close"}, {Type: typeQuery}, {Type: typeQuery, Verdict: deny}, {Type: typeWarning}, {Type: typeOpen},
	} {
		r.emit(rec)
	}
	r.close()
	for _, tt := range []struct {
		name string
		q    control.EventQuery
		want []int64 // numbers
	}{
		{"all", control.EventQuery{}, []int64{0, 1, 2, 3, 4, 5, 6}},
		{"a type", control.EventQuery{Types: []string{"flow"}}, []int64{0, 1, 2, 6}},
		{"types", control.EventQuery{Types: []string{typeWarning, control.EventDenied}, Follow: true}, []int64{1, 4, 5}},
		{"denials", control.EventQuery{Denied: true}, []int64{1, 4}},
		{"from a number on", control.EventQuery{From: 1, Types: []string{typeOpen}}, []int64{6}},
		{"nothing", control.EventQuery{Types: []string{"none"}, Follow: true}, nil},
	} {
		var lines []byte
		if err := r.read(t.Context(), tt.q, func(p []byte) error { lines = append(lines, p...); return nil }); err != nil {
			t.Error(err)
		}
		var got []int64
		for _, rec := range decode(t, lines) {
			got = append(got, rec.Seq)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: events %v, want %v", tt.name, got, tt.want)
		}
	}
	if allowed, denied := r.allowed.Load(), r.denied.Load(); allowed != 2 || denied != 2 {
		t.Errorf("%d allowed and %d denied, want 2 each", allowed, denied)
	}
}

// TestReadersEnd checks that a reader ends with its context, and with its own
// error.
func TestReadersEnd(t *testing.T) {
	t.Parallel()
	r, _ := newTestRecorder(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.read(ctx, control.EventQuery{From: -1, Follow: true}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	r.emit(record{Type: typeWarning})
	broken := errors.New("broken")
	if err := r.read(t.Context(), control.EventQuery{Follow: true}, func([]byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a broken writer: %v", err)
	}
}

// TestDenies checks which events count as denials.
func TestDenies(t *testing.T) {
	t.Parallel()
	deny, allow := &recordVerdict{Action: policy.Deny.String()}, &recordVerdict{Action: policy.Allow.String()}
	for _, tt := range []struct {
		rec  record
		want bool
	}{
		{record{Type: "flow.deny", Verdict: deny}, true},
		{record{Type: "flow.open", Verdict: allow}, false},
		{record{Type: "flow.close", Verdict: deny}, false}, // its flow.deny counted
		{record{Type: "dns.query", Verdict: deny}, true},
		{record{Type: "dns.query", Verdict: allow}, false},
		{record{Type: "dns.query"}, false},
		{record{Type: "limit.hit"}, false},
	} {
		if got := tt.rec.denies(); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.rec, got, tt.want)
		}
	}
}

// TestRotate checks that the file is begun again before it outgrows its limit,
// that lines stay whole, and that one older file is kept.
func TestRotate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "e")
	w, err := createRotating(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"1234\n", "5678\n", "abcd\n", "longer than the limit\n", "end\n"} {
		if n, err := w.Write([]byte(line)); err != nil || n != len(line) {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path: "end\n", path + ".1": "longer than the limit\n"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
}

// TestEventHandler checks how remarks become events.
func TestEventHandler(t *testing.T) {
	t.Parallel()
	r, _ := newTestRecorder(t)
	l := slog.New(&eventHandler{events: r})
	l.Debug("not this")
	l.With("a", 1).WithGroup("g").With("b", "x").Warn("this", "c", errors.New("cause"), slog.Group("h", "d", true))
	r.close()
	lines := string(readAll(t, r, 0))
	for _, want := range []string{`"type":"sandbox.log"`, `"message":"this"`, `"level":"WARN"`, `"attrs":{"a":"1","g.b":"x","g.c":"cause","g.h.d":"true"}`} {
		if !strings.Contains(lines, want) {
			t.Errorf("%s isn't in %s", want, lines)
		}
	}
	if strings.Count(lines, "\n") != 1 {
		t.Errorf("more than one event: %s", lines)
	}
}
