package sdk

import (
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/sluicenet/sluice/hv"
)

// A SandboxOption changes the configuration of a sandbox that is about to be
// created. Options apply in order.
type SandboxOption func(*SandboxConfig)

// WithImage makes the files of an OCI image the guest's root.
func WithImage(ref string) SandboxOption {
	return func(c *SandboxConfig) { c.Image = ref }
}

// WithBindRootfs makes a directory of the host the guest's root.
func WithBindRootfs(path string) SandboxOption {
	return func(c *SandboxConfig) { c.BindRootfs = path }
}

// WithBackend names the hypervisor: one of sluice.Backends, or auto. Without
// it, and with "", $SLUICE_BACKEND does, or else the first that works and
// isolates with a kernel of its own. A namespace is used only by name.
func WithBackend(name string) SandboxOption {
	return func(c *SandboxConfig) { c.Backend = name }
}

// WithHypervisor runs the sandbox on h. A Go value can't cross to another
// process, so the sandbox then runs inside the caller's, otherwise alike; for
// tests and embedding.
func WithHypervisor(h hv.Hypervisor) SandboxOption {
	return func(c *SandboxConfig) { c.hypervisor = h }
}

// WithMemory gives the guest that much memory, in MiB.
func WithMemory(mebibytes uint32) SandboxOption {
	return func(c *SandboxConfig) { c.MemoryMiB = mebibytes }
}

// WithCPUs gives the guest that many processors.
func WithCPUs(n uint8) SandboxOption {
	return func(c *SandboxConfig) { c.CPUs = n }
}

// WithHostname sets the guest's own name.
func WithHostname(name string) SandboxOption {
	return func(c *SandboxConfig) { c.Hostname = name }
}

// WithWorkdir sets the directory that commands start in.
func WithWorkdir(dir string) SandboxOption {
	return func(c *SandboxConfig) { c.Workdir = dir }
}

// WithEnv adds to the environment of commands; a later call wins, name by name.
func WithEnv(env map[string]string) SandboxOption {
	return func(c *SandboxConfig) { c.Env = merged(c.Env, env) }
}

// WithEntrypoint sets the first part of the default command.
func WithEntrypoint(args ...string) SandboxOption {
	return func(c *SandboxConfig) { c.Entrypoint = slices.Clone(args) }
}

// WithCmd sets the rest of the default command, which AttachDefault runs.
func WithCmd(args ...string) SandboxOption {
	return func(c *SandboxConfig) { c.Cmd = slices.Clone(args) }
}

// WithNetwork describes the network. The last call wins whole; nil is as if it
// had not been called.
func WithNetwork(net *NetworkConfig) SandboxOption {
	return func(c *SandboxConfig) { c.Network = net }
}

// WithPorts publishes TCP services on 127.0.0.1: host port to guest port.
// Calls add up; for the same host port a later one wins.
func WithPorts(ports map[uint16]uint16) SandboxOption {
	return func(c *SandboxConfig) { c.Ports = merged(c.Ports, ports) }
}

// WithPortsUDP publishes UDP services on 127.0.0.1: host port to guest port.
// Calls add up; for the same host port a later one wins.
func WithPortsUDP(ports map[uint16]uint16) SandboxOption {
	return func(c *SandboxConfig) { c.PortsUDP = merged(c.PortsUDP, ports) }
}

// WithPortBindings publishes services on explicit addresses of the host. Calls
// add up; for the same address, port and protocol a later one wins.
func WithPortBindings(bindings ...PortBinding) SandboxOption {
	return func(c *SandboxConfig) {
		earlier := slices.DeleteFunc(slices.Clone(c.PortBindings), func(old PortBinding) bool {
			return slices.ContainsFunc(bindings, func(b PortBinding) bool {
				key, ok := b.key()
				oldKey, oldOK := old.key()
				return ok && oldOK && key == oldKey
			})
		})
		c.PortBindings = append(earlier, bindings...)
	}
}

// WithSecrets adds secrets.
func WithSecrets(secrets ...SecretEntry) SandboxOption {
	return func(c *SandboxConfig) { c.Secrets = append(slices.Clip(c.Secrets), secrets...) }
}

// WithEvents calls f with each event, in order, from one goroutine, until the
// sandbox has ended; Close waits for the last. A slow f delays nothing but
// itself: events that pile up beyond a bound are dropped, and an event says how
// many.
func WithEvents(f func(Event)) SandboxOption {
	return func(c *SandboxConfig) { c.events = f }
}

// WithLogger sends the sandbox's own remarks to l; nil, the default, drops them.
func WithLogger(l *slog.Logger) SandboxOption {
	return func(c *SandboxConfig) { c.logger = l }
}

// WithStdio gives attached commands these files as their standard input, output
// and error; a nil file is the null device. They stay the caller's.
func WithStdio(stdin, stdout, stderr *os.File) SandboxOption {
	return func(c *SandboxConfig) { c.stdio = [3]*os.File{stdin, stdout, stderr} }
}

// merged returns a map with the entries of both; those of later win.
func merged[K comparable, V any](earlier, later map[K]V) map[K]V {
	out := make(map[K]V, len(earlier)+len(later))
	maps.Copy(out, earlier)
	maps.Copy(out, later)
	return out
}
