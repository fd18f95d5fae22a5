package netlab

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// HTTP serves plain HTTP/1.1 and, with prior knowledge, HTTP/2.
func (h *Host) HTTP(port uint16, handler http.Handler) {
	h.t.Helper()
	h.serveHTTP(h.Listen("tcp", port), handler)
}

// HTTPS serves HTTP/1.1 and HTTP/2 over TLS with a certificate of the lab's CA for
// the host's name and addresses.
func (h *Host) HTTPS(port uint16, handler http.Handler) {
	h.t.Helper()
	h.HTTPSWith(port, nil, handler)
}

// HTTPSWith is HTTPS with a certificate that change has spoilt; see CA.Leaf.
func (h *Host) HTTPSWith(port uint16, change func(*x509.Certificate), handler http.Handler) {
	h.t.Helper()
	names := []string{h.Name}
	for _, a := range h.Addrs {
		names = append(names, a.String())
	}
	cert, err := h.lab.CA.Leaf(time.Now(), change, names...)
	if err != nil {
		h.t.Fatal(err)
	}
	l := h.Listen("tcp", port)
	h.serveHTTP(tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"},
	}), handler)
}

func (h *Host) serveHTTP(l net.Listener, handler http.Handler) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:   handler,
		Protocols: &protocols,
		ErrorLog:  log.New(io.Discard, "", 0), // a denied client's bad handshake is no news
	}
	h.onClose(server.Close)
	h.wg.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			h.t.Errorf("host %s: serve HTTP: %v", h.Name, err)
		}
	})
}

// TCP calls serve with every connection to a port, each on its own goroutine, and
// closes the connection when serve returns. The host's end closes it too.
func (h *Host) TCP(port uint16, serve func(net.Conn)) {
	h.t.Helper()
	l := h.Listen("tcp", port)
	h.wg.Go(func() { h.accept(l, serve) })
}

func (h *Host) accept(l net.Listener, serve func(net.Conn)) {
	var mu sync.Mutex // guards conns
	conns := make(map[net.Conn]bool)
	var wg sync.WaitGroup
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		mu.Lock()
		conns[c] = true
		mu.Unlock()
		wg.Go(func() {
			serve(c)
			c.Close()
			mu.Lock()
			delete(conns, c)
			mu.Unlock()
		})
	}
	mu.Lock()
	for c := range conns {
		c.Close()
	}
	mu.Unlock()
	wg.Wait()
}

// Echo is a server for TCP: it sends back what it gets, and closes when the
// client has closed its half.
func Echo(c net.Conn) {
	io.Copy(c, c)
}

// Discard is a server for TCP: it reads to the end and sends nothing.
func Discard(c net.Conn) {
	io.Copy(io.Discard, c)
}

// Chargen is a server for TCP: it sends printable lines until the client has gone.
func Chargen(c net.Conn) {
	const line = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n"
	block := make([]byte, 0, 64<<10)
	for len(block)+len(line) <= cap(block) {
		block = append(block, line...)
	}
	for {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

// UDP calls serve with every datagram to a port, one at a time, and sends what it
// returns back to the sender; nil sends nothing. The datagram's memory is only
// valid during the call.
func (h *Host) UDP(port uint16, serve func(datagram []byte, from net.Addr) []byte) {
	h.t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		c := h.ListenPacket(network, port)
		h.wg.Go(func() { serveUDP(c, serve) })
	}
}

func serveUDP(c net.PacketConn, serve func([]byte, net.Addr) []byte) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error for an earlier reply
		}
		if reply := serve(buf[:n], from); reply != nil {
			c.WriteTo(reply, from) // a client that has gone is no news
		}
	}
}

// EchoDatagram is a server for UDP.
func EchoDatagram(datagram []byte, _ net.Addr) []byte { return datagram }
