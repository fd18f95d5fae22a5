package sandbox

import (
	"os"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// Role is argv[0] of a sandbox's process. It is not an environment variable,
// which everything that the process starts would inherit.
const Role = "sluice:sandbox"

// Dispatch takes over where this process was started by sluice for a role of
// its own, and doesn't return then; else it returns at once. Nothing but the
// roles below is known: a sandbox's process, a virtual machine's process 1, and
// what the platform's backends start. compile reads the configuration of a sandbox's creator.
func Dispatch(compile Compile) {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case Role:
		Main(compile)
	case machine.Role: // as guest.Executable may choose this program
		machine.Main()
	}
	for _, b := range sluice.Backends() {
		if b.Role != "" && os.Args[0] == b.Role {
			b.Main()
		}
	}
}
