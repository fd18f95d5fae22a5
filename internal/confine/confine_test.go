package confine

import (
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	t.Parallel()
	r := Report{{Name: "a", Done: true}, {Name: "b", Detail: "none here"}, {Name: "c", Done: true, Detail: "ABI 7"}}
	if got := r.String(); got != "a, not b (none here), c (ABI 7)" {
		t.Errorf("String = %q", got)
	}
	if got := r.Lacks(); !slices.Equal(got, []string{"b: none here"}) {
		t.Errorf("Lacks = %q", got)
	}
	if got := (Report{}).Lacks(); got != nil {
		t.Errorf("Lacks of nothing = %q", got)
	}
}

// TestProbe: a probe names all steps, and changes nothing.
func TestProbe(t *testing.T) {
	t.Parallel()
	r := Probe()
	var names []string
	for _, s := range r {
		names = append(names, s.Name)
	}
	if want := []string{stepDumpable, stepCore, stepMemory, stepPrivileges, stepLandlock, stepSeccomp}; !slices.Equal(names, want) {
		t.Errorf("Probe names %q, want %q", names, want)
	}
	if runtime.GOOS != "linux" && len(r.Lacks()) != len(r) {
		t.Errorf("Probe on %s: %s", runtime.GOOS, r)
	}
	for _, lack := range r.Lacks() {
		if !strings.Contains(lack, " on ") {
			t.Errorf("%q doesn't say where", lack)
		}
	}
	t.Log(r)
}
