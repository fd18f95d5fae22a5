package sdk

import (
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/sluicenet/sluice/hv"
)

// A SandboxOption changes the configuration of a sandbox that is about to be
// created. Options apply in order.
type SandboxOption func(*SandboxConfig)

// WithImage makes the files of an OCI image the guest's root: a name as docker
// takes it, looked for among the images that are here before a registry is asked
// (WithPullPolicy), or the path of an OCI layout, an OCI archive or a docker
// archive. What the image says about environment, default command, directory and
// user holds where no option says otherwise.
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

// WithKernel names the kernel of a guest that boots one: the path of an image as
// /boot has them, of libkrunfw's library, or of a directory with boot/vmlinuz-VERSION
// and lib/modules/VERSION in it; or such a directory in an OCI image, "oci://" and
// its name, which is pulled as WithPullPolicy says. Without it, and with "",
// $SLUICE_KERNEL does, or else the backend finds one. A backend without kernels, as a
// namespace, refuses it.
//
// It is an addition to the SDK that this package follows.
func WithKernel(kernel string) SandboxOption {
	return func(c *SandboxConfig) { c.Kernel = kernel }
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

// WithUser sets who runs commands: name, uid, name:group or uid:gid.
func WithUser(user string) SandboxOption {
	return func(c *SandboxConfig) { c.User = user }
}

// WithShell sets the program that Shell and AttachShell run; without it /bin/sh.
func WithShell(shell string) SandboxOption {
	return func(c *SandboxConfig) { c.Shell = shell }
}

// WithLabels adds labels, by which ListSandboxesWith finds sandboxes; a later
// call wins, label by label.
func WithLabels(labels map[string]string) SandboxOption {
	return func(c *SandboxConfig) { c.Labels = merged(c.Labels, labels) }
}

// WithLabel is WithLabels for one label.
func WithLabel(key, value string) SandboxOption {
	return WithLabels(map[string]string{key: value})
}

// WithReplace ends and removes a sandbox of the same name first. One that runs
// has 10 s to end after it was asked to.
func WithReplace() SandboxOption {
	return func(c *SandboxConfig) { c.Replace = true }
}

// WithReplaceWithTimeout is WithReplace with another time than 10 s; 0 doesn't
// ask.
func WithReplaceWithTimeout(d time.Duration) SandboxOption {
	return func(c *SandboxConfig) { c.Replace, c.ReplaceWithTimeout = true, &d }
}

// WithDetached lets the sandbox outlive this program. GetSandbox finds it then.
func WithDetached() SandboxOption {
	return func(c *SandboxConfig) { c.Detached = true }
}

// WithEphemeral says whether what the sandbox leaves, its files, logs and events,
// is removed as soon as it has ended. Without it, that of a detached one is kept
// and that of others removed. What is kept can be started again with
// StartSandbox, and keeps the name, until RemoveSandbox.
func WithEphemeral(ephemeral bool) SandboxOption {
	return func(c *SandboxConfig) { c.Ephemeral = &ephemeral }
}

// WithMaxDuration ends the sandbox d after its start; 0 means never.
func WithMaxDuration(d time.Duration) SandboxOption {
	return func(c *SandboxConfig) { c.MaxDuration = d }
}

// WithIdleTimeout ends the sandbox when nothing was asked of it, and no command
// ran, for d; 0 means never. Touch counts as asking.
func WithIdleTimeout(d time.Duration) SandboxOption {
	return func(c *SandboxConfig) { c.IdleTimeout = d }
}

// WithLogLevel sets the least of the sandbox's own remarks that become events;
// without it info.
func WithLogLevel(level LogLevel) SandboxOption {
	return func(c *SandboxConfig) { c.LogLevel = level }
}

// WithQuietLogs keeps the sandbox's own remarks back.
func WithQuietLogs() SandboxOption {
	return func(c *SandboxConfig) { c.QuietLogs = true }
}

// WithScripts puts programs into the guest, by name, at /.msb/scripts/NAME; a
// later call wins, name by name.
func WithScripts(scripts map[string]string) SandboxOption {
	return func(c *SandboxConfig) { c.Scripts = merged(c.Scripts, scripts) }
}

// WithPatches adds changes of the root, made in order before the guest starts.
// Patch makes them.
func WithPatches(patches ...PatchConfig) SandboxOption {
	return func(c *SandboxConfig) { c.Patches = append(slices.Clip(c.Patches), patches...) }
}

// WithMounts adds mounts, by the path in the guest; a later call wins, path by
// path. Mount makes them.
func WithMounts(mounts map[string]MountConfig) SandboxOption {
	return func(c *SandboxConfig) { c.Mounts = merged(c.Mounts, mounts) }
}

// WithPullPolicy says when a registry is asked for the image; without it, when
// the image isn't here.
func WithPullPolicy(p PullPolicy) SandboxOption {
	return func(c *SandboxConfig) { c.PullPolicy = p }
}

// WithPullProgress calls f with each step of the image's pull, one call at a
// time, before CreateSandbox returns. The work never waits for it: what a slow f
// misses are intermediate numbers.
func WithPullProgress(f func(PullProgress)) SandboxOption {
	return func(c *SandboxConfig) { c.progress = f }
}

// WithRegistryAuth gives credentials for the image's registry; without it those
// of docker's configuration are used. They go to nobody else, and are not kept.
func WithRegistryAuth(auth RegistryAuth) SandboxOption {
	return func(c *SandboxConfig) { c.RegistryAuth = &auth }
}

// WithRegistryInsecure takes any certificate from the image's registry, and plain
// HTTP.
func WithRegistryInsecure() SandboxOption {
	return func(c *SandboxConfig) { c.RegistryInsecure = true }
}

// WithRegistryCACerts trusts certificate authorities, PEM, for the image's
// registry beside the host's.
func WithRegistryCACerts(pem []byte) SandboxOption {
	return func(c *SandboxConfig) { c.RegistryCACerts = slices.Clone(pem) }
}

// WithRegistryCACertsPath is WithRegistryCACerts with the path of a PEM file.
func WithRegistryCACertsPath(path string) SandboxOption {
	return func(c *SandboxConfig) { c.RegistryCACertsPath = path }
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
// many. f may use the sandbox, and Close it; a goroutine that f waits for must not
// close it, since Close waits for f.
//
// With types f gets only events of these, as [EventFilter] has them. What a guest
// causes by the thousand, flows, costs next to nothing where nobody asks for it.
func WithEvents(f func(Event), types ...string) SandboxOption {
	return func(c *SandboxConfig) { c.events, c.eventTypes = f, types }
}

// WithLogger sends the sandbox's own remarks to l; nil, the default, drops them.
func WithLogger(l *slog.Logger) SandboxOption {
	return func(c *SandboxConfig) { c.logger = l }
}

// WithStdio gives attached commands these files as their standard input, output
// and error, instead of this program's own; a nil file is the null device. They
// stay the caller's. In a namespace a command gets the files themselves, and the
// sandbox holds them until it ends; elsewhere what it reads and writes is copied.
func WithStdio(stdin, stdout, stderr *os.File) SandboxOption {
	return func(c *SandboxConfig) { c.stdio = &[3]*os.File{stdin, stdout, stderr} }
}

// merged returns a map with the entries of both; those of later win.
func merged[K comparable, V any](earlier, later map[K]V) map[K]V {
	out := make(map[K]V, len(earlier)+len(later))
	maps.Copy(out, earlier)
	maps.Copy(out, later)
	return out
}
