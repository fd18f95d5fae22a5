package secret

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
)

// authorize returns what becomes of a header with the placeholder.
func authorize(t *testing.T, r *Request) string {
	t.Helper()
	h := Head{Header: map[string][]string{"Authorization": {"$MSB_KEY"}}}
	if err := r.Head(&h); err != nil {
		t.Fatal(err)
	}
	return h.Header["Authorization"][0]
}

// respond returns what becomes of a text in a response.
func respond(t *testing.T, r *Request, text string) string {
	t.Helper()
	got, err := io.ReadAll(r.Response(200, map[string][]string{"Content-Type": {"text/plain"}}).Body(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestNames(t *testing.T) {
	t.Parallel()
	set := newSet(t, Secret{EnvVar: "B", Value: NewValue("1"), AllowHosts: []string{"a.example"}}, key(), Secret{EnvVar: "B", Value: NewValue("1"), AllowHosts: []string{"b.example"}})
	if got := set.Names(); !slices.Equal(got, []string{"B", "KEY"}) {
		t.Errorf("Names = %q", got)
	}
	if got := set.String(); got != "2 secrets" {
		t.Errorf("String = %q", got)
	}
}

// TestPut: a new value counts from the next request on, and both are looked for in
// the responses of all.
func TestPut(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	before := set.Request(listed)
	if got := authorize(t, before); got != canary {
		t.Errorf("before: sent %q", got)
	}
	if warning, err := set.Put("KEY", NewValue("the new value")); warning != "" || err != nil {
		t.Fatalf("Put: %q, %v", warning, err)
	}
	after := set.Request(listed)
	if got := authorize(t, after); got != "the new value" {
		t.Errorf("after: sent %q", got)
	}
	for name, r := range map[string]*Request{"before": before, "after": after} {
		if got := respond(t, r, canary+" / the new value"); got != "$MSB_KEY / $MSB_KEY" {
			t.Errorf("%s: the response became %q", name, got)
		}
	}
	if got := authorize(t, before); got != canary {
		t.Errorf("the request in flight now sends %q", got)
	}
}

// TestPutDuringResponse: a response that is being read is searched for what has been
// set meanwhile, and still for what it was searched for.
func TestPutDuringResponse(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	r := set.Request(listed)
	src, w := io.Pipe()
	go func() {
		fmt.Fprint(w, "one ", canary[:5])
		_, _ = set.Put("KEY", NewValue("the new value"))
		fmt.Fprint(w, canary[5:], " two the new v")
		_ = set.Remove("KEY")
		fmt.Fprint(w, "alue three ", canary)
		_ = w.Close()
	}()
	got, err := io.ReadAll(r.Response(200, map[string][]string{"Content-Type": {"text/plain"}}).Body(src))
	if string(got) != "one $MSB_KEY two $MSB_KEY three $MSB_KEY" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	for _, row := range []struct {
		name    string
		value   string
		want    string
		warning string
		unknown bool
	}{
		{"NONE", canary, `set secret "NONE": no such secret`, "", true},
		{"KEY", "", `set secret "KEY": value is empty`, "", false},
		{"KEY", canary + "\n", `set secret "KEY": value holds a line break or NUL`, "", false},
		{"KEY", "short", "", "secret KEY is shorter than 8 bytes: responses aren't searched for it", false},
	} {
		warning, err := set.Put(row.name, NewValue(row.value))
		if fmt.Sprint(err) != row.want && (err != nil || row.want != "") || warning != row.warning || errors.Is(err, ErrUnknown) != row.unknown {
			t.Errorf("Put %s %q: %q, %v", row.name, row.value, warning, err)
		}
	}
}

// TestRemove: the placeholder is then a text like any other, the value still one to be
// looked for.
func TestRemove(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	before := set.Request(listed)
	if err := set.Remove("KEY"); err != nil {
		t.Fatal(err)
	}
	if err := set.Remove("KEY"); !errors.Is(err, ErrUnknown) {
		t.Errorf("again: %v", err)
	}
	if _, err := set.Put("KEY", NewValue(canary)); !errors.Is(err, ErrUnknown) {
		t.Errorf("Put: %v", err)
	}
	if len(set.Names()) != 0 {
		t.Errorf("Names = %q", set.Names())
	}
	if got := authorize(t, before); got != canary {
		t.Errorf("the request in flight sends %q", got)
	}
	after := set.Request(listed)
	if got := authorize(t, after); got != "$MSB_KEY" {
		t.Errorf("sent %q", got)
	}
	if got := respond(t, after, canary); got != "$MSB_KEY" {
		t.Errorf("the response became %q", got)
	}
	if got := authorize(t, set.Request(elsewhere)); got != "$MSB_KEY" {
		t.Errorf("elsewhere: sent %q", got)
	}
}

// TestChangeSharesPlaceholder: secrets with one placeholder have one value, so they
// change together.
func TestChangeSharesPlaceholder(t *testing.T) {
	t.Parallel()
	other := Secret{EnvVar: "OTHER", Placeholder: "$MSB_KEY", Value: NewValue(canary), AllowHosts: []string{"other.example"}}
	set := newSet(t, key(), other)
	if _, err := set.Put("OTHER", NewValue("the new value")); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"api.example.com", "other.example"} {
		if got := authorize(t, set.Request(Destination{host, ProofTLS})); got != "the new value" {
			t.Errorf("%s gets %q", host, got)
		}
	}
	if err := set.Remove("KEY"); err != nil || len(set.Names()) != 0 {
		t.Errorf("Remove: %v, left %q", err, set.Names())
	}
}

// TestRetiredAreBounded: the oldest is forgotten, but not by a request that began
// with it.
func TestRetiredAreBounded(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	before := set.Request(listed)
	value := func(i int) string { return fmt.Sprintf("value number %d.", i) }
	for i := range maxRetired + 1 {
		if _, err := set.Put("KEY", NewValue(value(i))); err != nil {
			t.Fatal(err)
		}
	}
	text := canary + " " + value(0) + value(maxRetired)
	if got := respond(t, before, text); got != "$MSB_KEY $MSB_KEY$MSB_KEY" {
		t.Errorf("a request that began before: %q", got)
	}
	if got := respond(t, set.Request(listed), text); got != canary+" $MSB_KEY$MSB_KEY" {
		t.Errorf("a new request: %q", got)
	}
	if n := len(set.current.Load().retired); n != maxRetired {
		t.Errorf("%d values retired", n)
	}
}

// TestScopesAreBounded: a guest can't make a view grow by asking for many hosts.
func TestScopesAreBounded(t *testing.T) {
	t.Parallel()
	set := newSet(t, key())
	for i := range 1000 {
		set.Request(Destination{fmt.Sprintf("h%d.example", i), ProofTLS})
		set.Request(Destination{fmt.Sprintf("h%d.dev.example.com", i), ProofTLS})
	}
	if n := len(set.current.Load().scopes); n != 2 {
		t.Errorf("%d scopes", n)
	}
}

// TestConcurrent changes a set while requests use it; the race detector looks on.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	set := newSet(t, key(everywhere))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				if i == 0 {
					if _, err := set.Put("KEY", NewValue(fmt.Sprintf("value number %d", j))); err != nil {
						t.Error(err)
					}
					continue
				}
				r := set.Request(listed)
				h := Head{Header: map[string][]string{"X": {"$MSB_KEY"}, "Content-Type": {"text/plain"}}}
				if err := r.Head(&h); err != nil {
					t.Error(err)
				}
				sent := h.Header["X"][0]
				wg.Go(func() {
					body, _ := r.Body(strings.NewReader("$MSB_KEY"))
					if got, err := io.ReadAll(body); string(got) != sent || err != nil {
						t.Errorf("the body of one request has %q, its header %q, %v", got, sent, err)
					}
				})
				if got := respond(t, r, sent); got != "$MSB_KEY" {
					t.Errorf("%q became %q", sent, got)
				}
				r.Findings()
				set.Names()
			}
		})
	}
	wg.Wait()
}
