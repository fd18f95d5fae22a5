package sdk

import (
	"runtime"
	"testing"

	"github.com/sluicenet/sluice/internal/confine"
)

// TestCheckConfinement checks what is said of kernels that lack something.
func TestCheckConfinement(t *testing.T) {
	t.Parallel()
	core := confine.Step{Name: "no core", Done: true}
	landlock, noLandlock := confine.Step{Name: "Landlock", Done: true, Detail: "ABI 5"}, confine.Step{Name: "Landlock", Detail: "switched off"}
	seccomp, noSeccomp := confine.Step{Name: "seccomp", Done: true}, confine.Step{Name: "seccomp", Detail: "no filters"}
	const less = "a sandbox's process is confined less than it could be: "
	for _, tt := range []struct {
		name   string
		report confine.Report
		want   Diagnosis
	}{
		{"all", confine.Report{core, landlock, seccomp}, Diagnosis{"confinement", DiagnosisOK, "no core, Landlock (ABI 5), seccomp", ""}},
		{"no Landlock", confine.Report{core, noLandlock, seccomp}, Diagnosis{"confinement", DiagnosisWarn, less + "Landlock: switched off", confinementFixes["Landlock"]}},
		{"neither", confine.Report{core, noLandlock, noSeccomp}, Diagnosis{"confinement", DiagnosisWarn, less + "Landlock: switched off; seccomp: no filters", confinementFixes["Landlock"] + "; " + confinementFixes["seccomp"]}},
		{"something new", confine.Report{core, {Name: "more", Detail: "too old"}}, Diagnosis{"confinement", DiagnosisWarn, less + "more: too old", ""}},
		{"another platform", confine.Report{noLandlock, noSeccomp}, Diagnosis{"confinement", DiagnosisWarn, "a sandbox's process isn't confined on " + runtime.GOOS, ""}},
	} {
		if got := checkConfinement(tt.report); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestConfinementFixes checks that each fix is that of a step that there is.
func TestConfinementFixes(t *testing.T) {
	t.Parallel()
	steps := make(map[string]bool)
	for _, step := range confine.Probe() {
		steps[step.Name] = true
	}
	for name := range confinementFixes {
		if !steps[name] {
			t.Errorf("%s is no step", name)
		}
	}
}
