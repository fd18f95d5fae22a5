package sluice

import (
	"github.com/sluicenet/sluice/hv/qemu"
	"github.com/sluicenet/sluice/hv/vz"
)

// backends is macOS's table.
func backends() []Backend {
	return []Backend{
		{Hypervisor: vz.New(), Disks: true, Role: vz.Role, Main: vz.Main, Executable: vz.Executable},
		{Hypervisor: qemu.New(qemu.Config{}), Disks: true, Role: qemu.Role, Main: qemu.Main},
	}
}
