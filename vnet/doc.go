// Package vnet is the network at the other end of a guest's card, in user
// space. [New] takes the card's link, the addresses, a policy and what answers
// DNS; the [Network] works until Close.
//
// # The way of a packet
//
//	guest NIC ─► link ─► reader ─► guard ─┬─ TCP ──► admit ─┬─ direct ───────────────► host socket
//	                     one               │                 └─ stack ─► dial ─► relay ─► host socket
//	                     goroutine         ├─ UDP ──► admit ─► NAT ─────────────────► host socket
//	                                       ├─ echo ─► admit ─► NAT ─────────────────► host socket
//	                                       └─ ARP, NDP ─► neigh
//
// The files follow it: reader.go takes frames off the link, guard.go drops what
// is not a well-formed packet of this guest's, flow.go admits flows and is the
// only place that asks the policy, tcp.go serves a TCP flow from its SYN to
// relay.go, udp.go and icmp.go are the NAT, frame.go builds what goes back.
// gate.go holds a TCP flow's first bytes where the policy needs their name,
// inspect.go hands flows to Config.Inspector, review.go decides them again when
// rules are replaced, buffers.go shares out the memory of their queues, and
// resolvers.go denies lookups past the DNS proxy. publish.go and publishudp.go
// bring peers of published ports in, also at an address of the guest's own making
// (lastseen.go), autoconf.go lets guests configure themselves, shaper.go limits
// the card's rate.
//
// From a TAP a TCP flow that nobody has to read is mapped onto the host's socket as it
// is (direct_linux.go). All others end in gVisor (stack.go, endpoint.go), which gets
// packets to any address and never sees ARP, NDP, ICMP or UDP. The host is dialled
// before the guest's handshake completes, so a refused connect is refused and a silent
// one silent. Frames carry up to 64 KiB both ways; the link segments where the card
// can't.
//
// # Where a denied packet goes
//
// reader.go → guard.go (malformed; a counter), or flow.go (denied by the policy;
// a counter and an event) → silence, or with Config.Reject a reset from gVisor
// or an ICMP error from frame.go.
//
// # Limits
//
// A guest's TCP flows, UDP sockets and their peers, fragments and buffers are
// bounded by [Limits]. The resolver, secrets and TLS are not here.
package vnet
