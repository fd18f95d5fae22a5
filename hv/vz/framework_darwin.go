//go:build darwin && cgo

package vz

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/Code-Hex/vz/v3"
)

// apple is Virtualization.framework.
type apple struct{}

func newFramework() framework { return apple{} }

// limits asks the framework, whose answers are the Mac's and need no entitlement.
func (apple) limits() (limits, error) {
	return limits{
		minCPUs: vz.VirtualMachineConfigurationMinimumAllowedCPUCount(), maxCPUs: vz.VirtualMachineConfigurationMaximumAllowedCPUCount(),
		minMemory: vz.VirtualMachineConfigurationMinimumAllowedMemorySize(), maxMemory: vz.VirtualMachineConfigurationMaximumAllowedMemorySize(),
	}, nil
}

// An appleMachine is a virtualMachine, with all that it was made of: the framework's
// objects end with the last reference to them, running or not.
type appleMachine struct {
	*vz.VirtualMachine
	config *vz.VirtualMachineConfiguration
	plan   plan

	states chan state
	lost   chan error    // nil without a card
	closed chan struct{} // closed by close
	news   sync.WaitGroup
}

func (apple) create(p plan) (virtualMachine, error) {
	m, err := newAppleMachine(p)
	if err != nil {
		return nil, explain(err, 13) // ports of a console, and the MTU of a card
	}
	return m, nil
}

// explain returns err, which may say that a function needs the given macOS.
func explain(err error, macOS int) error {
	if errors.Is(err, vz.ErrUnsupportedOSVersion) || errors.Is(err, vz.ErrBuildTargetOSVersion) {
		return tooOld(err, macOS)
	}
	return err
}

func newAppleMachine(p plan) (*appleMachine, error) {
	var options []vz.LinuxBootLoaderOption
	if p.initrd != "" {
		options = append(options, vz.WithInitrd(p.initrd))
	}
	// Kernel, initrd and disks are paths: the framework's own process opens them, the
	// kernel only when the machine starts. They are absolute and stay until its end.
	loader, err := vz.NewLinuxBootLoader(p.kernel, append(options, vz.WithCommandLine(p.commandLine))...)
	if err != nil {
		return nil, fmt.Errorf("make boot loader: %w", err)
	}
	config, err := vz.NewVirtualMachineConfiguration(loader, p.cpus, p.memory)
	if err != nil {
		return nil, fmt.Errorf("make configuration: %w", err)
	}
	// Each state fits: start, and what a caller asks for, make two or three, and own
	// takes them between its calls.
	m := &appleMachine{config: config, plan: p, states: make(chan state, 16), closed: make(chan struct{})}
	for _, add := range []func() error{m.addEntropy, m.addDisks, m.addConsole, m.addPorts, m.addCard} {
		if err := add(); err != nil {
			return nil, err
		}
	}
	// This is where a program without the entitlement is found out.
	if ok, err := config.Validate(); err != nil {
		return nil, fmt.Errorf("validate configuration: %w", err)
	} else if !ok {
		return nil, errors.New("validate configuration: the framework refuses it without a reason")
	}
	if m.VirtualMachine, err = vz.NewVirtualMachine(config); err != nil {
		return nil, fmt.Errorf("make machine: %w", err)
	}
	if p.card != nil {
		// Its Go binding watches with a goroutine that holds the machine's object for
		// the life of the process. There is one machine in a sandbox's process.
		gone, err := m.NetworkDeviceAttachmentWasDisconnected()
		if err != nil {
			return nil, fmt.Errorf("watch card: %w", err)
		}
		m.lost = make(chan error, 1)
		m.news.Go(func() { m.passLost(gone) })
	}
	m.news.Go(m.passStates)
	return m, nil
}

// addEntropy adds a virtio-rng: without it a guest's kernel makes its randomness of
// its own timing, and the first handshakes wait for that.
func (m *appleMachine) addEntropy() error {
	entropy, err := vz.NewVirtioEntropyDeviceConfiguration()
	if err != nil {
		return fmt.Errorf("make entropy device: %w", err)
	}
	m.config.SetEntropyDevicesVirtualMachineConfiguration([]*vz.VirtioEntropyDeviceConfiguration{entropy})
	return nil
}

// addDisks adds virtio-blk devices: the guest's vda, vdb and so on, in this order.
func (m *appleMachine) addDisks() error {
	var all []vz.StorageDeviceConfiguration
	for _, d := range m.plan.disks {
		// Cached: the default, automatic, has damaged Linux's file systems. Fsync: what
		// the guest flushes outlives the guest; that it outlives the Mac's power too
		// (Full) would cost every flush a round to the drive.
		attachment, err := vz.NewDiskImageStorageDeviceAttachmentWithCacheAndSync(d.path, d.readOnly, vz.DiskImageCachingModeCached, vz.DiskImageSynchronizationModeFsync)
		if err != nil {
			return fmt.Errorf("attach disk %q: %w", d.path, err)
		}
		device, err := vz.NewVirtioBlockDeviceConfiguration(attachment)
		if err != nil {
			return fmt.Errorf("attach disk %q: %w", d.path, err)
		}
		// The serial number, by which process 1 knows the root from the upper: macOS
		// 12.3, at most 20 bytes of ASCII.
		if d.identifier != "" {
			if err := device.SetBlockDeviceIdentifier(d.identifier); err != nil {
				return fmt.Errorf("name disk %q: %w", d.path, err)
			}
		}
		all = append(all, device)
	}
	m.config.SetStorageDevicesVirtualMachineConfiguration(all)
	return nil
}

// addConsole adds the console, hvc0.
func (m *appleMachine) addConsole() error {
	attachment, err := vz.NewFileHandleSerialPortAttachment(m.plan.console, m.plan.console)
	if err != nil {
		return fmt.Errorf("attach console: %w", err)
	}
	device, err := vz.NewVirtioConsoleDeviceSerialPortConfiguration(attachment)
	if err != nil {
		return fmt.Errorf("make console: %w", err)
	}
	m.config.SetSerialPortsVirtualMachineConfiguration([]*vz.VirtioConsoleDeviceSerialPortConfiguration{device})
	return nil
}

// addPorts adds ports that are no consoles, each a /dev/vportNpM whose name is in
// /sys/class/virtio-ports: macOS 13. The framework takes a descriptor's number and has
// one of its own of it; ours must be open until the machine is over all the same.
func (m *appleMachine) addPorts() error {
	device, err := vz.NewVirtioConsoleDeviceConfiguration()
	if err != nil {
		return fmt.Errorf("make ports: %w", err)
	}
	for i, p := range m.plan.ports {
		attachment, err := vz.NewFileHandleSerialPortAttachment(p.file, p.file)
		if err != nil {
			return fmt.Errorf("attach port %s: %w", p.name, err)
		}
		configuration, err := vz.NewVirtioConsolePortConfiguration(
			vz.WithVirtioConsolePortConfigurationName(p.name),
			vz.WithVirtioConsolePortConfigurationIsConsole(false),
			vz.WithVirtioConsolePortConfigurationAttachment(attachment))
		if err != nil {
			return fmt.Errorf("make port %s: %w", p.name, err)
		}
		device.SetVirtioConsolePortConfiguration(i, configuration)
	}
	m.config.SetConsoleDevicesVirtualMachineConfiguration([]vz.ConsoleDeviceConfiguration{device})
	return nil
}

// addCard adds a virtio-net device whose frames are a datagram socket's: bare, with
// whole checksums, since nothing carries virtio-net's header here. The socket's
// buffers are to be set on both ends before (see link.Pair), and the MTU, which takes
// macOS 13, is offered to the guest's driver.
func (m *appleMachine) addCard() error {
	c := m.plan.card
	if c == nil {
		return nil
	}
	attachment, err := vz.NewFileHandleNetworkDeviceAttachment(c.file)
	if err != nil {
		return fmt.Errorf("attach card: %w", err)
	}
	if err := attachment.SetMaximumTransmissionUnit(c.mtu); err != nil {
		return fmt.Errorf("set MTU %d of card: %w", c.mtu, err)
	}
	device, err := vz.NewVirtioNetworkDeviceConfiguration(attachment)
	if err != nil {
		return fmt.Errorf("make card: %w", err)
	}
	address, err := net.ParseMAC(c.mac)
	if err != nil {
		return err
	}
	mac, err := vz.NewMACAddress(address)
	if err != nil {
		return fmt.Errorf("set address %s of card: %w", c.mac, err)
	}
	device.SetMACAddress(mac)
	m.config.SetNetworkDevicesVirtualMachineConfiguration([]*vz.VirtioNetworkDeviceConfiguration{device})
	return nil
}

// passStates passes states on. The framework's channel is unbounded, never closed and
// made once: who asks for it again gets the same.
func (m *appleMachine) passStates() {
	changes := m.StateChangedNotify()
	for {
		select {
		case s := <-changes:
			select {
			case m.states <- state(s):
			case <-m.closed:
				return
			}
		case <-m.closed:
			return
		}
	}
}

// passLost passes on that the card's other end was lost; news that nobody has heard
// yet are enough.
func (m *appleMachine) passLost(gone <-chan *vz.DisconnectedError) {
	for {
		select {
		case err, ok := <-gone:
			if !ok {
				return
			}
			select {
			case m.lost <- err:
			default:
			}
		case <-m.closed:
			return
		}
	}
}

// close ends the goroutines. The framework's objects go with the last reference.
func (m *appleMachine) close() {
	close(m.closed)
	m.news.Wait()
}

// The calls are made on the machine's dispatch queue by the Go binding, which returns
// when the framework's completion handler has been called: as virtualMachine wants it.
// A state has the number of vz.VirtualMachineState, and that has the framework's.

func (m *appleMachine) start() error            { return m.Start() }
func (m *appleMachine) pause() error            { return m.Pause() }
func (m *appleMachine) resume() error           { return m.Resume() }
func (m *appleMachine) stop() error             { return m.Stop() }
func (m *appleMachine) state() state            { return state(m.State()) }
func (m *appleMachine) changes() <-chan state   { return m.states }
func (m *appleMachine) unplugged() <-chan error { return m.lost }
