package secret

import (
	"io"
	"strings"
	"testing"
)

func TestSmoke(t *testing.T) {
	s, _, err := New(Config{Secrets: []Secret{{EnvVar: "KEY", Value: NewValue("sk-live-12345678"), AllowHosts: []string{"api.example.com"}, InjectBody: true}}})
	if err != nil {
		t.Fatal(err)
	}
	r := s.Request(Destination{"api.example.com", ProofTLS})
	h := Head{Method: "POST", Path: "/$MSB_KEY", Header: map[string][]string{"Authorization": {"Bearer $MSB_KEY"}, "Content-Type": {"application/json"}}}
	if err := r.Head(&h); err != nil {
		t.Fatal(err)
	}
	b, re := r.Body(strings.NewReader(`{"a":"\u0024MSB_KEY", "b":"$MSB_KEY"}`))
	out, err := io.ReadAll(b)
	t.Log(h, string(out), re, err, r.Findings())
	p := r.Response(200, map[string][]string{"Content-Type": {"text/plain"}})
	out, err = io.ReadAll(p.Body(strings.NewReader("hi sk-live-12345678 there c2stbGl2ZS0xMjM0NTY3OA== sk%2dlive-12345678")))
	t.Log(string(out), p.Reframe, err, r.Findings())
	r = s.Request(Destination{"evil.com", ProofTLS})
	t.Log(r.Head(&Head{Path: "/%24MSB_KEY"}))
}
