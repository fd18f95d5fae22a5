package vnet

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/vnet/link"
)

// BenchmarkUDPOut forwards datagrams to a socket that nobody reads.
func BenchmarkUDPOut(b *testing.B) {
	for _, size := range []int{64, 1400} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			l := newNATLab(b)
			u := l.udp()
			l.mapTo(at(remote4, 9), listenUDP(b, at("127.0.0.1", 0)))
			p := l.packet(udp(at(guest4, 1000), at(remote4, 9), strings.Repeat("x", size)))
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				u.handle(p, l.now)
			}
		})
	}
}

// BenchmarkUDPSegmentsOut forwards a frame that stands for 40 datagrams.
func BenchmarkUDPSegmentsOut(b *testing.B) {
	l := newNATLab(b)
	u := l.udp()
	l.mapTo(at(remote4, 9), listenUDP(b, at("127.0.0.1", 0)))
	p := l.packet(udp(at(guest4, 1000), at(remote4, 9), strings.Repeat("x", 40*1400), offload(segmented(34, 6, link.GSOUDP, 1400))))
	b.ReportAllocs()
	b.SetBytes(40 * 1400)
	for b.Loop() {
		u.handle(p, l.now)
	}
}

// BenchmarkUDPEcho sends datagrams to a server that returns them, 64 in flight.
func BenchmarkUDPEcho(b *testing.B) {
	for _, size := range []int{64, 1400} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			l := newNATLab(b)
			back := make(chan int, 64)
			l.cfg.send = func(out *batch) { back <- len(out.frames) }
			u := l.udp()
			server := listenUDP(b, at("127.0.0.1", 0))
			go echoUDP(server) // ends when the test closes the socket
			l.mapTo(at(remote4, 9), server)
			p := l.packet(udp(at(guest4, 1000), at(remote4, 9), strings.Repeat("x", size)))
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for range 64 {
				u.handle(p, l.now)
			}
			owed := 0
			for b.Loop() {
				if owed == 0 {
					owed = <-back
				}
				owed--
				u.handle(p, l.now)
			}
		})
	}
}

func echoUDP(c *net.UDPConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if _, err := c.WriteToUDPAddrPort(b[:n], from); err != nil {
			return
		}
	}
}
