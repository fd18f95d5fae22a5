// Package dns answers a guest's DNS queries, whatever server it asked, by asking
// the upstreams that its operator configured, and remembers which name gave
// which address. [New] makes a [Server]; vnet hands it the datagrams and
// connections to port 53.
//
// It is a forwarder with a judge in it, no resolver: it doesn't iterate from the
// root, validate signatures, serve zones, or let guests update or transfer
// them. It speaks plain DNS to upstreams, over UDP and where that doesn't do
// over TCP. What a guest learns over HTTPS (DoH) it never sees, and doesn't
// believe.
//
// # Theory of operation
//
//	query ─► parse ─► alias? ─► kept? ─► permitted? ─► upstreams ─► reduce ─► keep
//	          │         │         │          │             │                   │
//	       FORMERR   gateway      │       NXDOMAIN      SERVFAIL               │
//	                              └──────────────┬──────────────────────────────┘
//	                          guest ◄─ render ◄─ record ◄─ judge: name, hops, addresses
//
// The files in the order of the way: query.go reads the guest's message; serve.go
// has the steps; resolve.go asks upstreams, in the order of roster.go, whom
// follow.go finds, by the datagrams of exchange.go; answer.go reduces what they
// say to the chain of CNAME records from the queried name; cache.go keeps that;
// judge.go lets the policy look at it, each time anew; names.go and targets.go
// record what the guest may now use; reply.go writes the reply. stream.go is the
// way over TCP. Everything but the Server itself (dns.go, serve.go, resolve.go,
// stream.go), the follower and the exchange is free of goroutines, locks, clocks
// and sockets.
//
// What is kept depends on the upstreams alone, so a new policy needs no flush.
// What reaches the guest is in the table of names before it leaves: an address
// that the table can't take is left out of the answer. A query that needs
// nobody's help is answered on the caller's goroutine without blocking; others
// wait in one goroutine per question, however many ask the same.
//
// All bounds are in [Limits]: what a guest can use up is its own.
//
// # RFCs
//
// Each behaviour, its section, and the test that shows it:
//
//	1035 2.3.4      names have at most 255 bytes, labels 63    TestParseQuery
//	1035 4.1.1      one question; RD is copied                 TestParseQuery, TestFlags
//	1035 4.2.1      512 bytes over UDP without EDNS, then TC   TestSizes
//	2181 10.1       of two CNAME records of a name one counts  TestReadAnswer
//	2308 5          a negative answer is kept as its SOA says  TestReadAnswer
//	3225 3          DO is copied                               TestFlags
//	3597 5          unknown types pass as they are             TestForward
//	4035 3.2.2      CD is copied                               TestFlags, TestUnbound
//	4343 4.1        the question's case is preserved           TestCase
//	5452 5          one question is on its way once            TestCoalesce
//	5452 9.1        a reply must fit in all that was asked     TestCheckReply, TestExchangeHostile
//	5452 9.2        ids and ports can't be guessed             TestAppendQuestion, TestExchangePorts
//	5452 9.3        after many misfits TCP is asked            TestExchangeFallsBack
//	5936 2          zone transfers are refused                 TestLocalAnswers
//	6052 2.2        IPv4 addresses inside IPv6                 TestNAT64Prefixes
//	6672 3.1        a DNAME stays beside its CNAME             TestReadAnswer
//	6840 5.7        AD in a query asks for AD                  TestFlags, TestUnbound
//	6891 6.1.1      one OPT record, at the root                TestParseQuery
//	6891 6.1.1      its options aren't forwarded               TestAppendQuestion, TestClients
//	6891 6.1.3      BADVERS for other versions                 TestLocalAnswers
//	6891 6.2.3      sizes below 512 mean 512                   TestUDPSize
//	6891 7          no OPT for who sent none; upstreams
//	                without EDNS are asked without             TestSizes, TestExchangeFallsBack
//	6895 3.1        meta types are refused                     TestLocalAnswers
//	7050 3          NAT64 prefixes are asked for               TestDiscover
//	7766 6.2.1.1    queries are pipelined, answers overtake    TestPipelining
//	7766 6.2.3      idle connections end                       TestStreamEnds
//	7766 8          two bytes of length                        TestForward, FuzzStream
//	8552 1.1        service names belong to a host             TestServiceHost, TestPermission
//	8767 4          a TTL with the top bit is a long one       TestReadAnswer
//	8914 4.16       Blocked says that the policy denies        TestPermission, TestRebind
//	8914 4.24       as Network Error does what went wrong      TestFailover
//	9460 7.3        hints are addresses                        TestReadAnswer, TestRebind
//	9520 3.2        a failure is kept for a second             TestFailureKept
package dns
