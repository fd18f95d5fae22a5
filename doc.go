// Package sluice maps the repository of a virtual network for sandboxes, and
// opens this platform's hypervisors.
//
//	hv        what sluice asks of a hypervisor; namespace, qemu, krun, vz are below
//	policy    may this flow pass? pure rules, first match wins
//	vnet      the network in user space; link/ carries its frames
//	dns       answers the guests' queries, remembers which name gave which address
//	mitm      terminates the guests' TLS, shows HTTP; secret/ injects and redacts
//	sdk       the public API: start here (import m "github.com/sluicenet/sluice/sdk")
//	cmd       the sluice command
//	internal  sandbox/ composes all of it in one process per sandbox
//	examples  programs to begin from
//
// The way of a packet is told in package vnet, the decisions in docs/adr.
package sluice
