// Package integration tests sluice as its users meet it: the command sluice and
// package sdk, real clients in guests, and the hosts of package netlab behind the
// network.
//
//   - clients: curl, ping, dig, iperf3 and git, over IPv4 and IPv6
//   - presets: what each opens and denies, what a client prints on a denial, and
//     that the denied target saw nothing
//   - flows: a thousand at once, a hundred thousand one after another
//   - bypass: the tables of attacks of the threat model; the row's number is in the
//     test's name. Each row shows both sides: the guest sees a failure, the
//     target or a counter of packets sees nothing, and the next legitimate flow
//     works
//
// The rows that need any bytes on the wire run on a fake hypervisor, whose guest is
// the test: its frames meet the real network of a real sandbox. The others run
// tools in a namespace.
package integration
