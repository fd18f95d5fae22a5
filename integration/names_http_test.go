package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// A ledger remembers the requests that reached a crowd's HTTP server.
type ledger struct {
	mu   sync.Mutex // guards rows
	rows map[netip.Addr][]string
}

// keep serves HTTP/1 and, with prior knowledge, HTTP/2 on a port of a crowd.
func (l *ledger) keep(c *crowd, port uint16) {
	l.rows = make(map[netip.Addr][]string)
	c.HTTP(port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		addr, _ := netip.ParseAddrPort(to.String())
		l.mu.Lock()
		l.rows[addr.Addr().Unmap()] = append(l.rows[addr.Addr().Unmap()], fmt.Sprintf("%s %s%s", r.Proto, r.Host, r.URL.Path))
		l.mu.Unlock()
		fmt.Fprintf(w, "page%s\n", strings.ReplaceAll(r.URL.Path, "/", " "))
	}))
}

// of returns what reached an address.
func (l *ledger) of(a netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.rows[a], ", ")
}

// TestRequests decides the requests of plain HTTP one by one. OK and ELSE are names
// of the row's address, NO is one that a rule denies, ADDR is the address.
func TestRequests(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	allow := startGuest(t, "--rule", openDNS, "--rule", "allow egress .ok.example tcp 80")
	deny := startGuest(t, "--deny", ".no.example")
	const (
		curl  = "curl -sS -g --max-time 60 --resolve OK:80:ADDR --resolve ELSE:80:ADDR --resolve NO:80:ADDR "
		curl2 = curl + "--http2-prior-knowledge "
		raw   = "socat -t 12 STDIO TCP:ADDR:80,shut-none <"
	)
	rows := []struct {
		what   string
		g      *guest
		line   string // with FILE: what the client says
		says   string
		served string // what reached the server
		prints string // what the guest sees
		denied string // name in flow.deny; "" for none, "?" for one without a name of its own
	}{
		{"allowed", allow, curl + "http://OK/a", "", "HTTP/1.1 OK/a", "page a", ""},
		{"other name", allow, curl + "http://ELSE/a", "", "", "reset", "ELSE"},
		{"keep-alive", allow, curl + "http://OK/a http://OK/b", "", "HTTP/1.1 OK/a, HTTP/1.1 OK/b", "page b", ""},
		{"keep-alive, another host second", allow, curl + "http://OK/a --next -sS -g --max-time 60 -H 'Host: ELSE' http://OK/b", "", "HTTP/1.1 OK/a", "page a", "ELSE"},
		{"keep-alive, a denied host second", deny, curl + "http://ELSE/a --next -sS -g --max-time 60 -H 'Host: NO' http://ELSE/b", "", "HTTP/1.1 ELSE/a", "page a", "NO"},
		{"denied", deny, curl + "http://NO/a", "", "", "reset", "NO"},
		{"address for a name", deny, curl + "http://ADDR/a", "", "HTTP/1.1 ADDR/a", "page a", ""},
		{"pipelined", allow, raw, "GET /a HTTP/1.1\r\nHost: OK\r\n\r\nGET /b HTTP/1.1\r\nHost: OK\r\nConnection: close\r\n\r\n", "HTTP/1.1 OK/a, HTTP/1.1 OK/b", "page b", ""},
		{"body, then another", allow, raw, "POST /a HTTP/1.1\r\nHost: OK\r\nContent-Length: 39\r\n\r\nGET /b HTTP/1.1\r\nHost: a.no.example\r\n\r\nGET /c HTTP/1.1\r\nHost: OK\r\nConnection: close\r\n\r\n", "HTTP/1.1 OK/a, HTTP/1.1 OK/c", "page c", ""},
		{"h2c", allow, curl2 + "http://OK/a", "", "HTTP/2.0 OK/a", "page a", ""},
		{"h2c, other name", allow, curl2 + "http://ELSE/a", "", "", "curl: (", "ELSE"},
		{"h2c, denied", deny, curl2 + "http://NO/a", "", "", "curl: (", "NO"},
		{"both lengths", deny, raw, "POST /a HTTP/1.1\r\nHost: ELSE\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", "", "?"},
		{"two lengths", deny, raw, "POST /a HTTP/1.1\r\nHost: ELSE\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "", "", "?"},
		{"white space before the colon", deny, raw, "GET /a HTTP/1.1\r\nHost : NO\r\nHost: ELSE\r\n\r\n", "", "", "?"},
		{"folded Host", deny, raw, "GET /a HTTP/1.1\r\nHost: ELSE\r\n NO\r\n\r\n", "", "", "?"},
		{"CONNECT by name", deny, raw, "CONNECT ELSE:80 HTTP/1.1\r\nHost: ELSE:80\r\n\r\n", "", "", "?"},
		{"CONNECT to a private address", deny, raw, "CONNECT 10.0.0.5:80 HTTP/1.1\r\nHost: 10.0.0.5:80\r\n\r\n", "", "", "?"},
		{"CONNECT to metadata", allow, raw, "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n", "", "", "?"},
		{"request after an upgrade", deny, raw, "GET /a HTTP/1.1\r\nHost: ELSE\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /b HTTP/1.1\r\nHost: NO\r\n\r\n", "HTTP/1.1 ELSE/a|", "", "NO"},
	}
	c := newCrowd(t, lab, 112, len(rows))
	var served ledger
	served.keep(c, 80)
	type trial struct{ row, family int }
	lines := make(map[*guest][]string)
	trials := make(map[*guest][]trial)
	queries := make(map[*guest][]string)
	words := make([][2]*strings.Replacer, len(rows))
	pairs := make([][2]netip.Addr, len(rows))
	for i, row := range rows {
		pairs[i] = c.pair()
		ok, other, no := fmt.Sprintf("r%d.ok.example", i), fmt.Sprintf("r%d.else.example", i), fmt.Sprintf("r%d.no.example", i)
		c.named(ok, pairs[i][:]...)
		c.named(other, pairs[i][:]...)
		queries[row.g] = append(queries[row.g], "dig +short "+ok+" A "+ok+" AAAA", "dig +short "+other+" A "+other+" AAAA")
		for f, addr := range pairs[i] {
			literal := addr.String()
			if addr.Is6() {
				literal = "[" + literal + "]"
			}
			words[i][f] = strings.NewReplacer("OK", ok, "ELSE", other, "NO", no, "ADDR", literal)
			line := words[i][f].Replace(row.line)
			if row.says != "" {
				line += shared(t, "flight", words[i][f].Replace(row.says))
			}
			lines[row.g] = append(lines[row.g], line)
			trials[row.g] = append(trials[row.g], trial{i, f})
		}
	}
	wire := lab.Watch(t)
	for _, g := range []*guest{allow, deny} {
		g.together(queries[g])
		for k, r := range g.together(lines[g]) {
			row, f := rows[trials[g][k].row], trials[g][k].family
			addr := pairs[trials[g][k].row][f]
			replace := words[trials[g][k].row][f].Replace
			want, optional, _ := strings.Cut(replace(row.served), "|")
			if got := served.of(addr); got != want && (optional != "" || !strings.HasSuffix(row.served, "|") || got != "") {
				t.Errorf("%s, %v: the server heard %q, want %q\n%s: %+v", row.what, addr, got, want, lines[g][k], r)
			}
			if !strings.Contains(r.out, row.prints) {
				t.Errorf("%s, %v: %s: %+v, want %q", row.what, addr, lines[g][k], r, row.prints)
			}
			denied := g.occurred(row.denied != "" && row.denied != "?", m.EventFlowDeny, addr, 80)
			switch {
			case row.denied == "" && len(denied) > 0:
				t.Errorf("%s, %v: denied: %+v %+v", row.what, addr, denied[0].Flow.Dst, denied[0].Verdict)
			case row.denied != "" && row.denied != "?" && len(denied) == 0:
				t.Errorf("%s, %v: no flow.deny", row.what, addr)
			case row.denied != "" && row.denied != "?":
				for _, e := range denied { // curl asks again over a new connection
					if dst := e.Flow.Dst; dst.Name != replace(row.denied) || dst.NameFrom != "http" {
						t.Errorf("%s, %v: recorded name %q from %q, want %q", row.what, addr, dst.Name, dst.NameFrom, replace(row.denied))
					}
				}
			}
		}
		if len(g.denials()) == 0 {
			t.Error("nothing was recorded as denied")
		}
	}
	wire.None(t, netlab.To("10.0.0.0/8", "169.254.0.0/16"))
}
