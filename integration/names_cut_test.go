package integration

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// startSpeaker starts a sandbox whose guest is the test, so that it has its own way
// with every segment, and lets it look up a name.
func startSpeaker(t *testing.T, lab *netlab.Lab, name string, rules []m.PolicyRule, known string) *insider {
	t.Helper()
	friend := lab.Host(t, "friend."+name+".example")
	friend.TCP(7, netlab.Echo)
	// The friend comes first: no name has a say about its flows.
	all := append([]m.PolicyRule{
		{Action: m.PolicyActionAllow, Destination: friend.IP4.String()},
		{Action: m.PolicyActionAllow, Destination: friend.IP6.String()},
	}, rules...)
	g := startAnother(t, lab, friend, name, &m.NetworkConfig{Rules: all})
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return g.Dial(ctx, network[:3], netip.AddrPortFrom(g.gateways[0], 53).String())
	}}
	if addrs, err := resolver.LookupNetIP(t.Context(), "ip", known); err != nil || len(addrs) < 2 {
		t.Fatalf("look up %s: %v, %v", known, addrs, err)
	}
	return g
}

// ask connects, sends the pieces in segments of their own and returns what comes back.
func (g *insider) ask(address string, pieces ...string) (string, error) {
	ctx, cancel := context.WithDeadline(g.t.Context(), deadline())
	defer cancel()
	c, err := g.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(deadline())
	for i, piece := range pieces {
		if i > 0 {
			time.Sleep(3 * time.Millisecond) // the piece before is on its way
		}
		if _, err := io.WriteString(c, piece); err != nil {
			return "", err
		}
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// TestCuts sends flights cut at every place, and in bytes: a cut changes nothing.
func TestCuts(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c := newCrowd(t, lab, 114, 1)
	pair := c.pair()
	c.named("cuts.ok.example", pair[:]...)
	const sni, plain = 4443, 4444
	c.serve(sni, welcome)
	c.serve(plain, welcome)
	g := startSpeaker(t, lab, "cuts", []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: ".ok.example"}}, "cuts.ok.example")
	wire := handshake(serverName("cuts.ok.example"))
	for _, row := range []struct {
		what, flight string
		port         uint16
		passes       bool
	}{
		{"SNI", wire, sni, true},
		{"SNI in records", inRecords(wire[5:], 3, 60), sni, true},
		{"foreign SNI", handshake(serverName("cuts.no.example")), sni, false},
		{"foreign SNI in records", inRecords(handshake(serverName("cuts.no.example"))[5:], 3, 60), sni, false},
		{"Host", flight(t, "http", "cuts.ok.example"), plain, true},
		{"foreign Host", flight(t, "http", "cuts.no.example"), plain, false},
		{"two Hosts", flight(t, "http two hosts", "cuts.ok.example", "cuts.no.example"), plain, false},
	} {
		for _, addr := range pair {
			before := len(c.came(addr, row.port))
			address := netip.AddrPortFrom(addr, row.port).String()
			var wg sync.WaitGroup
			room := make(chan bool, 32)
			ask := func(pieces ...string) {
				wg.Go(func() {
					room <- true
					defer func() { <-room }()
					got, err := g.ask(address, pieces...)
					if passed := strings.Contains(got, "welcome"); passed != row.passes || row.passes && err != nil {
						t.Errorf("%s to %s, cut at %d: %q, %v, want passed: %t", row.what, address, len(pieces[0]), got, err, row.passes)
					}
				})
			}
			asked := 1
			ask(strings.Split(row.flight, "")...)
			for i := 1; i < len(row.flight); i++ {
				if i > 12 && i%5 != 0 && i < len(row.flight)-6 {
					continue // every place at the ends, each fifth between
				}
				asked++
				ask(row.flight[:i], row.flight[i:])
			}
			wg.Wait()
			heard := 0
			for _, v := range c.came(addr, row.port)[before:] {
				switch v.heard() {
				case row.flight:
					heard++
				case "":
				default:
					t.Errorf("%s to %s: the server heard %q", row.what, address, v.heard())
				}
			}
			if want := map[bool]int{true: asked}[row.passes]; heard != want {
				t.Errorf("%s to %s: the server heard %d of %d flights, want %d", row.what, address, heard, asked, want)
			}
		}
	}
}

// TestStreams decides the requests of one HTTP/2 connection each by its authority.
func TestStreams(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c := newCrowd(t, lab, 115, 1)
	pair := c.pair()
	c.named("streams.ok.example", pair[:]...)
	var served ledger
	served.keep(c, 80)
	g := startSpeaker(t, lab, "streams", []m.PolicyRule{{Action: m.PolicyActionAllow, Destination: ".ok.example"}}, "streams.ok.example")
	for _, addr := range pair {
		var mu sync.Mutex // guards dials
		dials := 0
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if dials++; dials > 1 {
				return nil, errors.New("one connection must do")
			}
			return g.Dial(ctx, network, address)
		}}
		get := func(host, path string) error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(addr, 80).String()+path, nil)
			if err != nil {
				return err
			}
			r.Host = host
			answer, err := transport.RoundTrip(r)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, answer.Body)
			return errors.Join(err, answer.Body.Close())
		}
		want := []string{"HTTP/2.0 streams.ok.example/a", "HTTP/2.0 streams.ok.example/b"}
		if err := errors.Join(get("streams.ok.example", "/a"), get("streams.ok.example", "/b")); err != nil {
			t.Errorf("allowed authority at %v: %v", addr, err)
		}
		if err := get("streams.no.example", "/c"); err == nil {
			t.Errorf("another authority at %v was answered", addr)
		}
		transport.CloseIdleConnections()
		if got := served.of(addr); got != strings.Join(want, ", ") {
			t.Errorf("%v: the server heard %q, want %q", addr, got, want)
		}
	}
}
