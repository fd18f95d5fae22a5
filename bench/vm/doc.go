// Package vm measures virtual machines whose processor is emulated: sluice's card, at
// two sizes of packets, beside QEMU's own user networking; the start of a sandbox from
// the SDK, phase by phase, and what it takes of the host's memory; and an image of
// 200 000 files. Run make bench, or one of them:
//
//	cd bench && go test -v -run TestThroughput ./vm -table
//
// The same kernel, agent and iperf3 run on all cards; what differs is who is at the
// other end. The emulated processor is what limits all: the figures say nothing of
// machines with hardware help, and only their ratio matters.
package vm
