package sdk

import (
	"runtime"
	"strings"

	"github.com/sluicenet/sluice/internal/confine"
)

// confinementFixes say what would help where a step of package confine isn't
// possible, by the step's name.
var confinementFixes = map[string]string{
	"Landlock": "boot Linux 5.13 or newer with landlock among the modules of lsm= (see /sys/kernel/security/lsm)",
	"seccomp":  "use a kernel with CONFIG_SECCOMP_FILTER",
}

// checkConfinement says in how far the process of each sandbox, which handles
// what a guest sends, is confined here. Sandboxes run without, too.
func checkConfinement(report confine.Report) Diagnosis {
	d := Diagnosis{Check: "confinement", Status: DiagnosisOK, Detail: report.String()}
	lacks := report.Lacks()
	if len(lacks) == 0 {
		return d
	}
	d.Status = DiagnosisWarn
	if len(lacks) == len(report) {
		d.Detail = "a sandbox's process isn't confined on " + runtime.GOOS
		return d
	}
	d.Detail = "a sandbox's process is confined less than it could be: " + strings.Join(lacks, "; ")
	var fixes []string
	for _, step := range report {
		if fix := confinementFixes[step.Name]; !step.Done && fix != "" {
			fixes = append(fixes, fix)
		}
	}
	d.Fix = strings.Join(fixes, "; ")
	return d
}
