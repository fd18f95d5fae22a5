package sluice

import "github.com/sluicenet/sluice/hv/vz"

// backends is macOS's table.
func backends() []Backend {
	return []Backend{
		{Hypervisor: vz.New(), Role: vz.Role, Main: vz.Main, Executable: vz.Executable},
	}
}
