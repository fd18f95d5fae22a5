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
//	                                 start VM, link → vnet ← dns, boot agent,
//	       ◄── 3: Ready, Failure ───  listen on the control socket
//	       ◄── 3: Ended ────────────  the last word, if there is one
//	4: lifeline, never written ─────► its end is the sandbox's end
//	control.Client ── HTTP/JSON ────► control.Server → Sandbox
//
// What a sandbox owns lives in two directories. The home holds
// sandboxes/NAME (lock, state.json, events.jsonl) and blocks/ADDRESS; a flock on
// a file there is the claim, so that a claim dies with its holder, however that
// dies. The runtime directory holds the control socket, since a socket's path is
// limited to 104 bytes. Whoever finds an unlocked directory of a sandbox may
// remove it, and its socket.
//
// A sandbox ends for the first of: Stop or Kill, the end of its lifeline, the
// end of the guest's first process, SIGTERM. Then, in this order, the guest is
// killed, the network closed, the last event written, the socket and the
// directory removed, the claims let go, and every waiting call answered: who
// hears that a sandbox has ended can use its name at once.
//
// What it will not do: know the user's configuration. It gets compiled values
// from the Compile function that package sdk hands to Dispatch.
package sandbox
