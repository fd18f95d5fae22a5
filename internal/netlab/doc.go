// Package netlab is a small internet for tests, in network namespaces.
//
// Call [Main] from TestMain and [New] from a test:
//
//	func TestMain(m *testing.M) { netlab.Main(m) }
//
//	func TestFetch(t *testing.T) {
//		lab := netlab.New(t)
//		web := lab.Host(t, "web.example")
//		web.HTTP(80, http.FileServer(http.Dir("testdata")))
//		// http://web.example/ answers here, over IPv4 and IPv6
//	}
//
// # Theory of operation
//
// A Go process must not change its network namespace: a goroutine on another
// thread would use the real network. So [Main] starts the test binary again
// inside fresh network and mount namespaces (and a user namespace, unless it is
// root's) before any goroutine exists, and only that second process runs tests.
// It is called here:
//
//	here ── wan ══ lan ── router ──┬── r1 ══ eth0  a host
//	192.168.50.2                   ├── r2 ══ eth0  a host
//	2606:2800:220:50::2            └── hop ── hop ── a distant host
//
// Here is the machine that sluice runs on: its default routes lead to the
// router, its /etc/resolv.conf names the lab's DNS, its certificate bundle holds
// the lab's CA and nothing else. Each host is a namespace of its own, with
// addresses of any class. The router's routing rules make black holes and
// rejections, a goroutine between two veth pairs makes a bad wire. Nothing has a way
// to the real network; [New] fails if it finds one.
//
// The servers run in the test's process, as closures of the test: an agent
// process opens their sockets in the hosts' namespaces and passes them over. A
// socket stays in the namespace that it was opened in.
//
// [Lab.Watch] counts the packets that left here, by protocol, address and port:
// the proof that a denied target saw nothing.
//
// # Limits
//
// There is one lab per process, as there is one namespace; hosts belong to the
// test that made them, and tests may run in parallel as long as their names and
// explicit addresses differ. Where namespaces can't be made, tests run outside
// and [New] skips; see [Skip] for making that a failure. Only Linux has
// namespaces. It will not shape traffic's rate.
package netlab
