package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	m "github.com/sluicenet/sluice/sdk"
)

// TestVolumes checks what --volume reads.
func TestVolumes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]m.MountConfig{
		"/data:/work":    m.Mount.Bind("/data", m.MountOptions{}),
		"/data:/work:ro": m.Mount.Bind("/data", m.MountOptions{Readonly: true}),
		"/data:/work:rw": m.Mount.Bind("/data", m.MountOptions{}),
	} {
		if got, err := parseVolumes([]string{text}); err != nil || got["/work"] != want {
			t.Errorf("%s is %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, bad := range [][]string{{"/data"}, {":/work"}, {"/a:/b:exec"}, {"/a:/b:ro:rw"}, {"/a:/c", "/b:/c"}} {
		if got, err := parseVolumes(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

// TestLabels checks what --label reads.
func TestLabels(t *testing.T) {
	t.Parallel()
	got, err := parseLabels([]string{"team=a", "empty=", "eq=a=b"})
	if want := "map[empty: eq:a=b team:a]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("labels %v, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"team", "=a", ""} {
		if _, err := parseLabels([]string{bad}); err == nil {
			t.Errorf("--label %q was read", bad)
		}
	}
}

// TestSecretFlags checks what --secret reads: a value never stands in an error.
func TestSecretFlags(t *testing.T) {
	t.Setenv("API_KEY", "sesame")
	var cfg m.SandboxConfig
	f := interceptionFlags{secrets: []string{"API_KEY@api.example.com,*.example.org"}}
	option, err := f.option()
	if err != nil {
		t.Fatal(err)
	}
	option(&cfg)
	if got := cfg.Secrets[0]; got.EnvVar != "API_KEY" || got.Value != "sesame" || got.AllowHosts[0] != "api.example.com" || got.AllowHostPatterns[0] != "*.example.org" {
		t.Errorf("secret %v", got)
	}
	for text, want := range map[string]string{
		"API_KEY":                  "want VAR@HOST",
		"@api.example.com":         "want VAR@HOST",
		"API_KEY@":                 "want VAR@HOST",
		"KEY=sesame@h.example":     "can be read by everybody",
		"KEY=sesame":               "want VAR@HOST",
		"SURELY_NOT_SET@h.example": "is not set in this shell",
	} {
		_, err := (&interceptionFlags{secrets: []string{text}}).option()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("--secret %s: %v, want %q", text, err, want)
		}
	}
}

// TestMoments checks what --since and --until read.
func TestMoments(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                     {},
		"10m":                  now.Add(-10 * time.Minute),
		"2026-01-30T00:00:00Z": time.Date(2026, 1, 30, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := moment(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	if _, err := moment("yesterday", now); err == nil {
		t.Error("yesterday was read")
	}
}

// TestShortTexts checks what tables show.
func TestShortTexts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct{ got, want string }{
		{age(now.Add(-30*time.Second), now), "30 s ago"},
		{age(now.Add(time.Second), now), "0 s ago"},
		{age(now.Add(-90*time.Second), now), "1 minute ago"},
		{age(now.Add(-49*time.Hour), now), "2 days ago"},
		{byteCount(1023), "1023 B"},
		{byteCount(1536), "1.5 KiB"},
		{byteCount(5 << 30), "5.0 GiB"},
		{byteCount(1 << 63), "8388608.0 TiB"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
}

// TestPlaces checks which of cp's arguments are in a sandbox.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, name, path string
		guest            bool
	}{
		{"worker:/tmp/a", "worker", "/tmp/a", true},
		{"worker:a:b", "worker", "a:b", true},
		{"./worker:a", "", "./worker:a", false},
		{"/a:b", "", "/a:b", false},
		{"plain", "", "plain", false},
	} {
		name, path, guest := splitPlace(tt.text)
		if guest != tt.guest || path != tt.path || guest && name != tt.name {
			t.Errorf("%q is %q, %q, %v", tt.text, name, path, guest)
		}
	}
}

// TestRulesFirst checks that what is said last about a target counts alone.
func TestRulesFirst(t *testing.T) {
	t.Parallel()
	rule := func(text string) m.PolicyRule {
		r, err := m.ParsePolicyRule(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	n := &m.NetworkConfig{Rules: []m.PolicyRule{rule("deny egress a.example tcp 443"), rule("allow egress b.example")}}
	got, err := withRulesFirst(n, []m.PolicyRule{rule("allow egress a.example tcp 443")})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, r := range got.Rules {
		texts = append(texts, r.String())
	}
	if want := "allow egress a.example tcp 443; allow egress b.example"; strings.Join(texts, "; ") != want {
		t.Errorf("%q, want %q", texts, want)
	}
	if len(n.Rules) != 2 || n.Rules[0].Action != m.PolicyActionDeny {
		t.Errorf("the configuration that was given changed: %v", n.Rules)
	}
}
