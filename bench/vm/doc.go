// Package vm measures the network and the start of virtual machines whose
// processor is emulated: sluice's card, at two sizes of packets, beside QEMU's own
// user networking. Run make bench.
//
// The same kernel, agent and iperf3 run in all of them; what differs is who is at
// the other end of the card. The emulated processor is what limits all: the figures
// say nothing of machines with hardware help, and only their ratio matters.
package vm
