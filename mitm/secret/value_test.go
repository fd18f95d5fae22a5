package secret

import (
	"bytes"
	"encoding/base64"
	stdhex "encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

// shows reports whether a text holds the canary in a form in which a formatting
// verb or an encoder could have put it there.
func shows(text string) bool {
	quoted, _ := json.Marshal(canary)
	for _, form := range []string{
		canary, string(quoted[1 : len(quoted)-1]), url.QueryEscape(canary), url.PathEscape(canary),
		base64.StdEncoding.EncodeToString([]byte(canary)), stdhex.EncodeToString([]byte(canary)), fmt.Sprintf("% x", canary),
		strings.Trim(fmt.Sprint([]byte(canary)), "[]"), strings.Trim(fmt.Sprintf("%#v", []byte(canary)), "[]byte{}"),
		"c0ffee", // no special characters: stays as it is in most encodings
	} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
			return true
		}
	}
	return false
}

func TestValueText(t *testing.T) {
	t.Parallel()
	if got := NewValue(canary).Reveal(); got != canary {
		t.Errorf("Reveal = %q", got)
	}
	if got := (Value{}).Reveal(); got != "" {
		t.Errorf("the zero Value reveals %q", got)
	}
}

// TestNothingShows formats, marshals and logs everything that knows a value.
func TestNothingShows(t *testing.T) {
	t.Parallel()
	type holder struct {
		Public  Value
		private Value
		nested  struct{ s Secret }
	}
	h := holder{Public: NewValue(canary), private: NewValue(canary)}
	h.nested.s = key()
	set := newSet(t, key(everywhere))
	r := set.Request(Destination{"api.example.com", ProofTLS})
	head := Head{Header: map[string][]string{"X-Key": {"$MSB_KEY"}, "Content-Type": {"application/json"}}, HasBody: true}
	if err := r.Head(&head); err != nil {
		t.Fatal(err)
	}
	body, _ := r.Body(strings.NewReader("$MSB_KEY"))
	if _, err := body.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	response := r.Response(200, map[string][]string{"Set-Cookie": {canary}})
	leak := response.Body(strings.NewReader(canary))
	_, leaked := leak.Read(make([]byte, 100))
	if !errors.As(leaked, new(*Leak)) {
		t.Fatalf("a value in a binary body: %v", leaked)
	}
	violation := set.Request(Destination{"evil.example", ProofTLS}).Head(&Head{Path: "/$MSB_KEY"})
	if !errors.As(violation, new(*Violation)) {
		t.Fatalf("a placeholder on its way elsewhere: %v", violation)
	}
	_, err := set.Put("NONE", NewValue(canary))
	_, err2 := set.Put("KEY", NewValue(canary+"\n"))
	for _, x := range []any{
		NewValue(canary), &h, h, key(), set, r, response, body, leak, leaked, violation, r.Findings(), err, err2,
		[]Value{NewValue(canary)}, map[string]Value{"a": NewValue(canary)}, []Secret{key()}, set.current.Load(), r.scope,
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%b", "%e", "%U", "%T", "%10s", "%p"} {
			if text := fmt.Sprintf(verb, x); shows(text) {
				t.Errorf("%s of a %T shows the value: %s", verb, x, text)
			}
		}
		if text, err := json.Marshal(x); err == nil && shows(string(text)) {
			t.Errorf("JSON of a %T shows the value: %s", x, text)
		}
		if text, err := xml.Marshal(x); err == nil && shows(string(text)) {
			t.Errorf("XML of a %T shows the value: %s", x, text)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "x", x)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "x", x)
		if shows(log.String()) {
			t.Errorf("the log of a %T shows the value: %s", x, log.String())
		}
	}
}
