package sdk

import (
	"testing"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/hv/hvtest"
)

// What a sandbox gets that names no backend is the first that works, and never one
// that has to be named.
func TestDiagnoseChoice(t *testing.T) {
	one := hvtest.Fake{}
	vm, namespace := sluice.Backend{Hypervisor: &one}, sluice.Backend{Hypervisor: &one, ByNameOnly: true}
	ok, not := Diagnosis{Status: DiagnosisOK}, Diagnosis{Status: DiagnosisWarn}
	for _, row := range []struct {
		name, env string
		found     []Diagnosis
		want      DiagnosisStatus
		detail    string
	}{
		{"the first", "", []Diagnosis{ok, ok, ok}, DiagnosisOK, "fake without --backend: the first of fake, fake that works"},
		{"the second", "auto", []Diagnosis{not, ok, not}, DiagnosisOK, "fake without --backend: the first of fake, fake that works"},
		{"only by name", "", []Diagnosis{not, not, ok}, DiagnosisWarn, "none without --backend: of fake, fake none works, and less than a virtual machine is never taken unasked"},
		{"the machine's", "namespace", []Diagnosis{ok, ok, ok}, DiagnosisOK, "namespace without --backend, as SLUICE_BACKEND says"},
	} {
		t.Setenv("SLUICE_BACKEND", row.env)
		d := diagnoseChoice([]sluice.Backend{vm, vm, namespace}, row.found)
		if d.Status != row.want || d.Detail != row.detail || (d.Fix != "") != (row.want == DiagnosisWarn) {
			t.Errorf("%s: %+v; want %s, %q", row.name, d, row.want, row.detail)
		}
	}
}
