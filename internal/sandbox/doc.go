// Package sandbox is one running sandbox: the only place where hypervisor,
// network, policy and resolver meet.
//
// [Launch] starts a sandbox in a process of its own and [Embed] in the caller's;
// both end in the same code and leave a control socket to speak with it. A
// program that may be started again as a sandbox's process calls [Dispatch]
// before anything else; package sdk does so for its users.
//
// # Theory of operation
//
//	creator                          sandbox's process (argv[0] sluice:sandbox)
//	Launch ── fork, exec ──────────► Dispatch → Main
//	       ◄── 3: Hello ────────────
//	       ─── 3: Spec ────────────► compile, claim name, claim block,
//	                                 start VM, link → vnet ← dns, mitm, boot agent,
//	                                 patch root, publish ports, confine itself,
//	       ◄── 3: Ready, Failure ───  listen on the control socket
//	       ◄── 3: Ended ────────────  the last word, if there is one
//	4: lifeline, never written ─────► its end is the sandbox's end
//	control.Client ── HTTP/JSON ────► control.Server → Sandbox
//
// What a sandbox owns lives in two directories. The home holds
// sandboxes/NAME (lock, state.json, events.jsonl, log) and blocks/ADDRESS; a lock
// on a file there is the claim, so that a claim dies with its holder, however
// that dies. The runtime directory holds the control socket, since a socket's
// path is limited to 104 bytes. state.json is a [Found]: written whole, for those
// who look for a sandbox. Whoever finds an unlocked directory may remove it, and
// its socket, unless it says that it is to be kept: then it only becomes crashed,
// and can be started again.
//
// Commands, files and connections into the guest go through the agent's client.
// Each command is a session: what it writes goes to the log as it is read, at the
// pace of its own reader, so that a slow one holds up nobody else. Sessions are
// what keeps an idle sandbox alive, and what a draining one waits for.
//
// Policies are replaced in network and resolver at once, as one generation. TLS
// that is read meets the network by an inspector, and the guest trusts its
// authority by its bootstrap. Patches of the root are made by the agent, inside the
// guest.
//
// A sandbox ends for the first of: Stop, Kill or a drain's last session, the end
// of its lifeline unless it is detached, its longest or its idle time, the end of
// the guest's first process, SIGTERM. Then, in this order, the guest is killed,
// the network closed, the last event written, the socket and the directory
// removed, the claims let go, and every waiting call answered: who hears that a
// sandbox has ended can use its name at once.
//
// Once its guest runs, the process confines itself to its own directory, the
// claims to addresses and the sockets (package confine).
//
// What it will not do: know the user's configuration. It gets compiled values
// from the Compile function that package sdk hands to Dispatch.
package sandbox
