// Package memnet is the small internet of tests in memory: a guest, its card and
// the servers that it talks to, in one process, without privileges, on every
// platform. Package netlab has the real ones.
//
// Call [NewGuest] with the guest's end of a link, and give the other end to what
// is tested:
//
//	inner, outer := memnet.Pipe()
//	internet := memnet.NewInternet()
//	internet.TCP("93.184.216.34:80", serveHello)
//	network, err := vnet.New(vnet.Config{Link: outer, Dialer: internet, …})
//	guest := memnet.NewGuest(t, memnet.Config{Link: inner, …})
//	c, err := guest.Dial(ctx, "tcp", "93.184.216.34:80")
//
// The guest is a kernel of its own: gVisor's stack with everything on that package
// vnet switches off (ARP, NDP, ICMP), and shares no code with it. Besides its
// sockets it sends any bytes as frames ([Guest.Send]) and records those that come
// ([Guest.Watch]).
//
// What it will not do: UDP beyond 127.0.0.1, or echo (a vnet.Dialer hands out the
// host's own sockets, and no test's datagram may leave the machine), or be fast.
package memnet
