package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// dialPolicies are the policies under which the moment of the dial is looked at. In
// each, case b holds for an address that only a name of kind ok has.
var dialPolicies = []struct {
	name  string
	flags []string
}{
	{"allow-all", []string{"--network", "allow-all"}}, // what the others are compared with
	{"deny list", []string{"--deny", ".no.example"}},
	{"deny list with a port", []string{"--rule", "deny .no.example tcp 1-65535", "--rule", openDNS, "--rule", public}},
	{"allow list", []string{"--allow", ".ok.example"}},
}

// flightTime is how long a guest may take to say its first words where a name decides.
const flightTime = 10 * time.Second

// greeting is what a server that speaks first says.
const greeting = "SSH-2.0-lab"

// greet speaks first, and echoes one line.
func greet(c net.Conn) {
	io.WriteString(c, greeting+"\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil {
		io.WriteString(c, line)
	}
}

// Ports of the hosts that no server answers on.
const (
	closedPort      = 1001
	silentPort      = 1002
	unreachablePort = 1003
)

// TestDialEarly shows that where a rule for names only could deny (case b), nothing
// else changes: servers that speak first aren't delayed, and what doesn't answer
// looks as it does without any rule.
func TestDialEarly(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c := newCrowd(t, lab, 110, 1)
	pair := c.pair()
	c.named("dial.ok.example", pair[:]...)
	for _, port := range []uint16{21, 22, 25} {
		c.serve(port, greet)
	}
	c.Drop(silentPort)
	c.Unreachable(unreachablePort)

	var lines []string
	for _, addr := range pair {
		for _, port := range []int{21, 22, 25} {
			lines = append(lines, fmt.Sprintf(`bash -c "exec 3<>/dev/tcp/%v/%d; read -r -t 20 l <&3; echo \$l; echo mine >&3; read -r -t 20 l <&3; echo \$l"`, addr, port))
		}
		for _, port := range []int{closedPort, silentPort, unreachablePort} {
			lines = append(lines, fmt.Sprintf("nc -v -n -w 3 %v %d", addr, port))
		}
	}
	wants := []string{greeting, greeting, greeting, "Connection refused", "timed out", "unreachable|No route to host"}
	var plain []result
	for _, p := range dialPolicies {
		g := startGuest(t, p.flags...)
		g.want("dig +short dial.ok.example", pair[0].String())
		g.want("dig +short dial.ok.example AAAA", pair[1].String())
		results := g.together(lines)
		if plain == nil {
			plain = results
		}
		for i, r := range results {
			want := wants[i%len(wants)]
			if !containsAny(r.out, want) {
				t.Errorf("%s: %s: %+v, want %s", p.name, lines[i], r, want)
			}
			if want == greeting && !strings.HasSuffix(r.out, "mine") {
				t.Errorf("%s: %s: %+v, want an echo", p.name, lines[i], r)
			}
			if want == greeting && r.took > plain[i].took+flightTime/2 {
				t.Errorf("%s: %s: after %v, without a rule for names after %v", p.name, lines[i], r.took, plain[i].took)
			}
		}
	}
}

// containsAny reports whether s holds one of the words between bars.
func containsAny(s, words string) bool {
	for word := range strings.SplitSeq(words, "|") {
		if strings.Contains(s, word) {
			return true
		}
	}
	return false
}

// TestDialLate shows the other cases: c, where a name must come before the dial, and
// d, where none could help. And how long a guest may take to say it.
func TestDialLate(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	c := newCrowd(t, lab, 111, 7)
	for _, port := range []uint16{22, evidencePort} {
		c.serve(port, greet)
	}
	g := startGuest(t, "--rule", openDNS, "--rule", "allow egress .ok.example")
	early := startGuest(t, "--deny", ".no.example")

	banner, closed, silent, drip, alone, open, slow := c.pair(), c.pair(), c.pair(), c.pair(), c.pair(), c.pair(), c.pair()
	for what, pair := range map[string][2]netip.Addr{"banner": banner, "closed": closed, "silent": silent, "drip": drip} {
		for _, kind := range []string{"ok", "else"} {
			name := fmt.Sprintf("late-%s.%s.example", what, kind)
			c.named(name, pair[:]...)
			g.want("dig +short "+name+" A "+name+" AAAA", pair[1].String())
		}
	}
	hello := flight(t, "sni", "late-closed.ok.example")
	file := shared(t, "flight", hello)
	dripping := fmt.Sprintf(`bash -c "exec 3<>/dev/tcp/%%v/%d; for i in \$(seq 0 29); do head -c \$((i+1)) %s | tail -c 1 >&3; sleep 0.4; done; cat <&3"`, evidencePort, file)

	type row struct {
		what     string
		addr     netip.Addr
		port     uint16
		line     string
		want     string        // in the output
		at       time.Duration // when it ends, about
		by, from string        // of flow.deny; "" for none
		leaves   bool          // whether anything leaves
	}
	var rows, others []row
	for f := range 2 {
		at := func(a [2]netip.Addr, port int) string { return fmt.Sprintf("/dev/tcp/%v/%d", a[f], port) }
		rows = append(rows,
			// The server would speak first, but isn't dialled.
			row{"c, both silent", banner[f], 22, `bash -c "exec 3<>` + at(banner, 22) + `; echo connected; cat <&3"`, "Connection reset", flightTime, "allow egress .ok.example", "dns", false},
			row{"c, half a flight", silent[f], 22, `bash -c "exec 3<>` + at(silent, 22) + `; sleep 1; printf '\\026\\003' >&3; cat <&3"`, "Connection reset", flightTime, "allow egress .ok.example", "dns", false},
			// The dial fails after the handshake.
			row{"c, closed", closed[f], closedPort, fmt.Sprintf("socat -d -d -t 12 STDIO TCP:%v,shut-none <%s", netip.AddrPortFrom(closed[f], closedPort), file), "Connection reset", 0, "", "", true},
			row{"c, a byte at a time", drip[f], evidencePort, fmt.Sprintf(dripping, drip[f]), "Broken pipe|Connection reset", flightTime, "allow egress .ok.example", "dns", false},
			row{"d, SSH", alone[f], 22, fmt.Sprintf("nc -v -n -w 2 %v 22", alone[f]), "timed out", 2 * time.Second, defaults, "", false},
		)
		others = append(others,
			row{"b, both silent", open[f], 22, `bash -c "exec 3<>` + at(open, 22) + `; sleep 11; echo late >&3; cat <&3"`, "late", 11 * time.Second, "", "", true},
			row{"b, a byte at a time", slow[f], evidencePort, fmt.Sprintf(dripping, slow[f]), "Broken pipe|Connection reset", flightTime, "deny egress .no.example", "", true},
		)
	}
	check := func(g *guest, rows []row) {
		var lines []string
		for _, r := range rows {
			lines = append(lines, r.line)
		}
		wire := lab.Watch(t)
		for i, got := range g.together(lines) {
			r := rows[i]
			if !containsAny(got.out, r.want) {
				t.Errorf("%s, %v: %+v, want %s", r.what, r.addr, got, r.want)
			}
			if got.took < r.at-time.Second || got.took > r.at+flightTime-time.Second {
				t.Errorf("%s, %v: ended after %v, want %v", r.what, r.addr, got.took, r.at)
			}
			if left := wire.Count(t, netlab.To(r.addr.String())); (left > 0) != r.leaves {
				t.Errorf("%s, %v: %d packets left, want some: %t", r.what, r.addr, left, r.leaves)
			}
			for _, v := range c.came(r.addr, r.port) {
				if heard := v.heard(); r.by != "" && heard != "" {
					t.Errorf("%s, %v: the server heard %q", r.what, r.addr, heard)
				}
			}
			denied := g.occurred(r.by != "", m.EventFlowDeny, r.addr, r.port)
			if (len(denied) > 0) != (r.by != "") {
				t.Errorf("%s, %v: %d flow.deny", r.what, r.addr, len(denied))
			}
			for _, e := range denied {
				if v := e.Verdict; v.Text != r.by && v.Source != r.by || e.Flow.Dst.NameFrom != r.from {
					t.Errorf("%s, %v: recorded %+v, %+v, want by %s, name from %q", r.what, r.addr, *v, e.Flow.Dst, r.by, r.from)
				}
			}
		}
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		check(early, others)
	}()
	check(g, rows)
	<-done
}
