package integration

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

// families are the IP versions that everything is tried over.
var families = []int{4, 6}

// hello answers every request.
var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

// TestClients runs real clients under the default policy against a public host.
func TestClients(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.Host(t, "clients.example")
	h.HTTP(80, hello)
	h.HTTPS(443, hello)
	h.HTTP(8080, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	h.TCP(7, netlab.Echo)
	h.UDP(7, netlab.EchoDatagram)
	h.IPerf3(5201)
	g := startGuest(t)
	for _, tool := range []string{"curl", "ping", "dig", "iperf3", "git"} {
		netlab.Tool(t, tool)
	}
	git := lab.Host(t, "git.clients.example")
	git.Git(80, map[string]string{"README": "from git\n"})
	for _, f := range families {
		addr := h.IP4
		record := "A"
		if f == 6 {
			addr, record = h.IP6, "AAAA"
		}
		for _, row := range []struct{ line, want string }{
			{"curl -sS -%d http://clients.example/", "hello"},
			{"curl -sS -%d https://clients.example/", "hello"},
			{"curl -sS -%d --http1.1 https://clients.example/", "hello"},
			{"curl -sS -%d --data-binary @/etc/passwd http://clients.example:8080/", "root:"},
			{"ping -%d -n -c 2 -i 0.2 -W 5 clients.example", " 0% packet loss"},
			{"ping -%d -n -c 1 -W 5 -s 8000 clients.example", " 0% packet loss"},
			{"iperf3 -%d --bytes 20M --client clients.example", "receiver"},
			{"iperf3 -%d --reverse --bytes 20M --client clients.example", "receiver"},
			{"iperf3 -%d --udp --bitrate 10M --bytes 1M --client clients.example", "receiver"},
			{"cd /tmp && rm -rf repo && git clone -q -%d http://git.clients.example/repo.git && cat repo/README", "from git"},
		} {
			g.want(fmt.Sprintf(row.line, f), row.want)
		}
		g.want("curl -sS http://"+net.JoinHostPort(addr.String(), "80")+"/", "hello")
		g.want("dig +short clients.example "+record, addr.String())
		g.want("dig +short +tcp clients.example "+record, addr.String())
		g.want("getent ahosts clients.example", addr.String())
		g.fails(fmt.Sprintf("curl -sS -%d http://clients.example:81/", f), 7) // refused
	}
	g.want("dig nobody.clients.example", "NXDOMAIN")
	if denied := g.denials(); len(denied) > 0 {
		t.Errorf("denied: %s", denied[0].Line())
	}
}

// TestTraceroute shows the hops behind the sandbox's gateway.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	h := lab.DistantHost(t, 2, "distant.example")
	g := startGuest(t)
	netlab.Tool(t, "traceroute")
	for _, f := range families {
		want := h.IP4.String()
		if f == 6 {
			want = h.IP6.String()
		}
		g.want(fmt.Sprintf("traceroute -%d -n -q 1 -w 3 -m 8 distant.example | tail -n 1", f), want)
	}
}

// TestBadWire moves data over a wire that loses, doubles and reorders: nothing is
// corrupted.
func TestBadWire(t *testing.T) {
	t.Parallel()
	h := netlab.New(t).Host(t, "badwire.example")
	h.Impair(netlab.Impairment{Loss: 0.02, Duplicate: 0.02, Reorder: 0.05, Seed: 5})
	data := make([]byte, 4<<20)
	rand.Read(data)
	down, up := sha256.Sum256(data), make(chan [sha256.Size]byte, 1)
	h.HTTP(80, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Write(data)
			return
		}
		body, _ := io.ReadAll(r.Body) // a part has another hash
		up <- sha256.Sum256(body)
	}))
	g := startGuest(t)
	for _, f := range families {
		g.want(fmt.Sprintf("curl -sS -%d -o /tmp/data http://badwire.example/ && sha256sum /tmp/data", f), hex.EncodeToString(down[:]))
		g.want(fmt.Sprintf("curl -sS -%d -T /tmp/data http://badwire.example/ && echo sent", f), "sent")
		if got := <-up; got != down {
			t.Errorf("IPv%d: the server got other bytes than it had sent", f)
		}
	}
}
