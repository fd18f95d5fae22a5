// Package sdk runs programs in sandboxes whose network is decided by a policy.
//
// Call [CreateSandbox] first. It starts a guest with one network card, with
// sluice at the card's other end, and returns when the guest is ready:
//
//	import m "github.com/sluicenet/sluice/sdk"
//
//	sb, err := m.CreateSandbox(ctx, "worker",
//		m.WithImage("python:3.12"),
//		m.WithNetwork(m.NetworkPolicy.PublicOnly()),
//	)
//	if err != nil {
//		return err
//	}
//	defer sb.Close()
//	out, err := sb.Exec(ctx, "python", []string{"-c", "print(6*7)"})
//
// # A running sandbox
//
// [Sandbox.Exec], [Sandbox.Shell] and their like run commands, any number at
// once, and return what they wrote; [Sandbox.ExecStream] hands it over as it
// comes, [Sandbox.Attach] gives a command this program's own terminal.
// [Sandbox.FS] reads and writes the guest's files. [Sandbox.Logs],
// [Sandbox.Events], [Sandbox.Metrics] and [Sandbox.Flows] say what goes on.
// [Sandbox.UpdateNetwork], [Sandbox.Ports] and [Sandbox.Secrets] change it,
// [Sandbox.Explain] says why a flow would pass or not. [Sandbox.Dial] and
// [Sandbox.HTTPClient] reach services in the guest. None of them needs the
// guest's network, but for what is about it.
//
// # Life
//
// A sandbox ends with Close, and with its creator, however that dies; then nothing
// of it is left. One that is created with [WithDetached] goes on, is found by its
// name with [GetSandbox], and stays when it was stopped, to be started again with
// [StartSandbox] or removed with [RemoveSandbox]. [WithEphemeral] changes what
// stays.
//
// # Network
//
// A [NetworkConfig] says what the guest may reach. Rules are evaluated first
// match wins: deny lists, then the preset's rules, then [NetworkConfig.Rules],
// then the default. Without a NetworkConfig the policy is public-only. The same
// structure is read from YAML by [ParseNetworkConfig]. [TLSConfig] lets sluice
// read the guest's TLS, and [WithSecrets] lets the guest use values that it never
// sees.
//
// A configuration is checked whole when the sandbox is created. One [*Error]
// names every problem with its field path, the value, and what would be right;
// [IsKind] finds each problem's kind. Nothing is ignored: what this version, or
// the backend, can't do is refused with [ErrUnsupportedOperation].
//
// # Images
//
// [WithImage] makes an OCI image the guest's root. Images are looked for among
// those that are here ([Image]) before a registry is asked. What an image says
// about environment, command, directory and user holds where no option does. With
// neither an image nor [WithBindRootfs] a namespace shows the host's own files,
// read-only; a virtual machine needs an image.
//
// SLUICE_REGISTRY_MIRRORS lists hosts that are asked before a registry, such as
// docker.io=mirror.example:5000.
//
// # Processes
//
// Each sandbox runs in a process of its own: this package starts the running
// executable again, under the name sluice:sandbox. An init function of this
// package takes over there, so that main never runs; initialisers of packages
// that sort before this one do run. Where that is not wanted, or the executable
// can't serve, set SLUICE_EXECUTABLE to an installed sluice command of the same
// version. That process gets none of the caller's environment but a short list
// of names (PATH, HOME, TMPDIR and the like).
//
// [WithHypervisor] is the exception: a Go value can't cross to another process, so
// that sandbox runs in this one.
//
// # Limitations
//
// A command whose handle is closed is killed, unless it was started with
// [WithExecKeep]. Secrets' values are kept nowhere, so that a sandbox with secrets
// can't be started again. What travels through [SandboxFSOps.Copy] goes through
// this program.
package sdk
