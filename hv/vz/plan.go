package vz

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest/machine"
)

// Sizes of a guest where the caller leaves them to us: those of the other backends, so
// that a sandbox is the same on each.
const (
	defaultCPUs      = 1
	defaultMemoryMiB = 512
)

const mebibyte = 1 << 20

// newPlan returns the machine of a guest, without its files: what boots, ports and
// card are Start's to make. It touches no file.
func newPlan(cfg hv.Config, l limits) (plan, error) {
	p := plan{cpus: uint(cmp.Or(cfg.CPUs, defaultCPUs))}
	switch {
	case cfg.Root != "":
		return plan{}, errors.New("vz shows a guest no directory of the host's: its root is a disk")
	case p.cpus < l.minCPUs || p.cpus > l.maxCPUs:
		return plan{}, fmt.Errorf("%d processors: this machine gives a guest %d to %d", p.cpus, l.minCPUs, l.maxCPUs)
	}
	// Before anything is found or made: what no machine can be is the caller's error.
	setup, err := setupOf(cfg)
	if err != nil {
		return plan{}, err
	}
	if p.memory, err = memory(cfg.MemoryMiB, l); err != nil {
		return plan{}, err
	}
	for i, d := range cfg.Disks {
		path, err := filepath.Abs(d.Path) // the framework's process has another directory
		if err != nil {
			return plan{}, err
		}
		// EROFS is never written, so that nobody needs the file open for it.
		p.disks = append(p.disks, disk{path: path, readOnly: d.ReadOnly || d.Format == hv.EROFS})
		switch {
		case i == 0:
			p.disks[i].identifier = machine.RootDisk
		case i == 1 && setup.Upper != "":
			p.disks[i].identifier = machine.UpperDisk
		}
	}
	p.commandLine = commandLine(setup)
	if cfg.NIC != nil {
		p.card, err = newCard(*cfg.NIC)
	}
	return p, err
}

// memory returns a guest's memory in bytes: what was asked for, at least what the
// framework gives, in whole MiB, which it insists on.
func memory(askedMiB uint32, l limits) (uint64, error) {
	asked := uint64(cmp.Or(askedMiB, defaultMemoryMiB)) * mebibyte
	least := (l.minMemory + mebibyte - 1) / mebibyte * mebibyte
	most := l.maxMemory / mebibyte * mebibyte
	if asked > most {
		return 0, fmt.Errorf("%d MiB of memory: this machine gives a guest %d at most", asked/mebibyte, most/mebibyte)
	}
	return max(asked, least), nil
}

// setupOf returns what the guest's process 1 is told.
func setupOf(cfg hv.Config) (machine.Setup, error) {
	s, err := machine.SetupOf(cfg)
	s.Off = true // see commandLine
	return s, err
}

// commandLine returns the kernel's command line. A reset would start the machine
// anew, so its process 1 switches it off; a panic, which resets, shows by process 1
// saying that it is ready for a second time.
func commandLine(s machine.Setup) string {
	words := []string{"console=hvc0", "quiet", "panic=-1", "rdinit=" + machine.Role}
	return strings.Join(append(words, s.Words()...), " ")
}

// The MTU that the framework gives a card.
const (
	minMTU     = 1500
	defaultMTU = 1500
)

// newCard returns the card of a guest. The framework refuses MTUs below 1500: the
// guest's agent sets those.
func newCard(nic hv.NIC) (*card, error) {
	mac := nic.MAC
	switch len(mac) {
	case 0:
		mac = make(net.HardwareAddr, 6)
		rand.Read(mac)
		mac[0] = mac[0]&^1 | 2 // one station's, locally administered
	case 6:
	default:
		return nil, fmt.Errorf("address %v of the card is not of Ethernet", mac)
	}
	return &card{mac: mac.String(), mtu: max(int(cmp.Or(nic.MTU, defaultMTU)), minMTU)}, nil
}
