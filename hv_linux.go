package sluice

import (
	"github.com/sluicenet/sluice/hv/krun"
	"github.com/sluicenet/sluice/hv/namespace"
	"github.com/sluicenet/sluice/hv/qemu"
)

// backends is Linux's table: a virtual machine where one can run, and of those the
// one that starts faster and needs no program. See ADR 11.
func backends() []Backend {
	return []Backend{
		{Hypervisor: krun.New(), Disks: true, Role: krun.Role, Main: krun.Main},
		{Hypervisor: qemu.New(qemu.Config{}), Disks: true, Role: qemu.Role, Main: qemu.Main},
		{Hypervisor: namespace.New(), ByNameOnly: true, Role: namespace.Role, Main: namespace.Main},
	}
}
