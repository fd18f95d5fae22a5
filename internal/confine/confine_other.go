//go:build !linux

package confine

import "runtime"

// process does nothing: there is no counterpart that a running process could apply
// to itself.
func process(Rules) (Report, error) { return probe(), nil }

func probe() Report {
	var r Report
	for _, name := range []string{stepDumpable, stepCore, stepMemory, stepPrivileges, stepLandlock, stepSeccomp} {
		r = append(r, Step{Name: name, Detail: "not on " + runtime.GOOS})
	}
	return r
}

func system() []string { return nil }
