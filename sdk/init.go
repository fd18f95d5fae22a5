package sdk

import "github.com/sluicenet/sluice/internal/sandbox"

// init takes over where this process is a sandbox's and not the program that it
// was built as. It is the project's one init function: nothing of the program's
// own main must run first.
func init() { sandbox.Dispatch(compileJSON) }
