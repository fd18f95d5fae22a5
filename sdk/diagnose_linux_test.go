package sdk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// diagnose returns the diagnoses by check.
func diagnose(t *testing.T) map[string]m.Diagnosis {
	t.Helper()
	found := make(map[string]m.Diagnosis)
	for _, d := range m.Diagnose(t.Context()) {
		if d.Detail == "" {
			t.Errorf("%s says nothing", d.Check)
		}
		if _, twice := found[d.Check]; twice {
			t.Errorf("%s is there twice", d.Check)
		}
		found[d.Check] = d
	}
	return found
}

// TestDiagnose checks what is found in the lab, whose resolver, in turn, doesn't
// know the name that is asked for, makes an address up, and answers.
func TestDiagnose(t *testing.T) {
	inNamespace(t)
	lab := netlab.New(t)
	found := diagnose(t)
	for _, check := range []string{"state", "open files", "routes", "backend namespace"} {
		if found[check].Status != m.DiagnosisOK {
			t.Errorf("%s: %+v", check, found[check])
		}
	}
	if d := found["resolver"]; d.Status != m.DiagnosisWarn || d.Fix == "" {
		t.Errorf("an unknown name: %+v", d)
	}
	if d := found["confinement"]; d.Status == m.DiagnosisFail {
		t.Errorf("sandboxes run unconfined, too: %+v", d)
	}
	t.Run("made-up address", func(t *testing.T) {
		lab.DNS.A(t, "example.com", "198.18.0.7")
		found := diagnose(t)
		if d := found["addresses"]; d.Status != m.DiagnosisWarn || !strings.Contains(d.Fix, "allow 198.18.0.0/15") {
			t.Errorf("an address of a proxy: %+v", d)
		}
	})
	t.Run("address", func(t *testing.T) {
		lab.DNS.A(t, "example.com", "93.184.216.34")
		found := diagnose(t)
		if d := found["resolver"]; d.Status != m.DiagnosisOK {
			t.Errorf("a public address: %+v", d)
		}
		if d, ok := found["addresses"]; ok {
			t.Errorf("a public address: %+v", d)
		}
	})
	t.Run("no state", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SLUICE_HOME", file)
		found := diagnose(t)
		if found["state"].Status != m.DiagnosisFail || found["backend namespace"].Status != m.DiagnosisFail {
			t.Errorf("a file for a home: %+v", found)
		}
	})
}

// TestMadeUpAddresses checks that a running sandbox warns of such a resolver, by
// name of the rule that helps.
func TestMadeUpAddresses(t *testing.T) {
	lab := netlab.New(t)
	lab.DNS.A(t, "ipv4only.arpa", "198.18.0.9")
	warnings := make(chan string, 16)
	mustCreate(t, "made-up", inNamespace(t, m.WithEvents(func(e m.Event) {
		if e.Type == m.EventWarning {
			warnings <- e.Message
		}
	}))...)
	if got := <-warnings; !strings.Contains(got, "allow 198.18.0.0/15") {
		t.Errorf("warning %q", got)
	}
}
