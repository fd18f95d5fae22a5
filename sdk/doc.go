// Package sdk runs programs in sandboxes whose network is decided by a policy.
//
// Call [CreateSandbox] first. It starts a guest with one network card, with
// sluice at the card's other end, and returns when the guest is ready:
//
//	import m "github.com/sluicenet/sluice/sdk"
//
//	sb, err := m.CreateSandbox(ctx, "worker",
//		m.WithBackend("namespace"),
//		m.WithNetwork(m.NetworkPolicy.PublicOnly()),
//	)
//	if err != nil {
//		return err
//	}
//	defer sb.Close()
//	code, err := sb.Attach(ctx, "curl", "https://example.com")
//
// # Network
//
// A [NetworkConfig] says what the guest may reach. Rules are evaluated first
// match wins: deny lists, then the preset's rules, then [NetworkConfig.Rules],
// then the default. Without a NetworkConfig the policy is public-only. The same
// structure is read from YAML by [ParseNetworkConfig].
//
// A configuration is checked whole when the sandbox is created. One [*Error]
// names every problem with its field path, the value, and what would be right;
// [IsKind] finds each problem's kind. Nothing is ignored: what this version
// can't do yet is refused with [ErrUnsupportedOperation].
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
// A sandbox ends when its creator does, however that dies.
//
// # Limitations
//
// Only the namespace backend is there, which runs a command of the host's own
// files, or of a root directory, in Linux namespaces: its kernel is the host's.
// Images, TLS interception and secrets are refused.
package sdk
