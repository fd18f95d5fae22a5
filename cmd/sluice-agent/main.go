// Command sluice-agent is process 1 of a virtual machine that sluice starts: it
// sets the machine up and is the agent that its host talks to. It is a static
// program, built with CGO_ENABLED=0 for linux/amd64 and linux/arm64, that sluice
// puts into the machine by itself: see guest.Executable for where it is looked
// for. By hand there is nothing to do with it.
package main

import (
	"fmt"
	"os"

	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

func main() {
	if os.Args[0] == machine.Role {
		machine.Main()
	}
	fmt.Fprintln(os.Stderr, "sluice-agent: this is process 1 of sluice's virtual machines, and nothing to start by hand")
	os.Exit(guest.CodeRefused)
}
