// Package bench measures sluice beside its peers, in one run on one machine: run
// make bench.
//
// Each peer gives a shell in a namespace a network: slirp4netns and pasta, from
// Debian's packages, sluice, and for the limit a shell with none in between
// (direct loopback). In all of them the same programs talk to the same servers on
// the host's loopback. Rounds alternate between the peers, so that a slow minute
// of the machine hits all; the table shows medians, and for throughput the CPU
// seconds of each peer's processes and of the two iperf3.
//
// Cards whose frames have no header, as virtual machines' mostly do, have a table of
// their own, against what a socket pair can do and against frames one by one.
//
// It runs inside package netlab's namespace: pasta copies the addresses of the
// default route's interface, and nothing must leave the machine. Results go to
// standard output only; figures belong into the commit that changes them.
//
// What it will not do: judge. A reader compares the columns; on a busy machine even
// ratios move.
package bench
