package dns

import (
	"crypto"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// loopback is where the name servers of tests run.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// TestDnsmasq asks dnsmasq, kills it, and asks again when it is back.
func TestDnsmasq(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	args := []string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file", "--user=root", "--log-facility=-",
		"--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprint("--port=", port),
		"--host-record=www.example.com,93.184.1.1,2606:2800::1", "--cname=alias.example.com,www.example.com",
		"--txt-record=text.example.com,hello", "--mx-host=example.com,www.example.com,10", "--srv-host=_sip._tcp.example.com,www.example.com,5060",
		"--address=/private.example.com/10.0.0.1", "--local=/example.com/"}
	stop := daemon(t, "dnsmasq", args...)
	awaitTCP(t, port)
	s := newServer(t, Config{Nameservers: []Nameserver{{Addr: loopback, Port: port}}, Limits: Limits{CacheEntries: -1}})
	rows := []struct{ question, want string }{
		{"www.example.com A", "NOERROR 93.184.1.1"},
		{"WWW.example.com AAAA", "NOERROR 2606:2800::1"},
		{"alias.example.com A", "NOERROR www.example.com. 93.184.1.1"},
		{"text.example.com TXT", `NOERROR "hello"`},
		{"example.com MX", "NOERROR 10 www.example.com."},
		{"_sip._tcp.example.com SRV", "NOERROR 0 0 5060 www.example.com."},
		{"private.example.com A", "NXDOMAIN ede=15"},
		{"nothing.example.com A", "NXDOMAIN"},
		{"www.example.com TXT", "NOERROR"},
		{"www.example.org A", "REFUSED"},
	}
	check := func(when string) {
		t.Helper()
		for _, tt := range rows {
			got := show(ask(t, s, question(tt.question)))
			if strings.HasPrefix(got, "REFUSED") {
				got = "REFUSED" // newer versions say why
			}
			if got != tt.want {
				t.Errorf("%s: %s: got %q, want %q", when, tt.question, got, tt.want)
			}
		}
	}
	check("running")
	stop()
	began := time.Now()
	// A refusal is no silence: it ends the query long before its time is over.
	if got := show(ask(t, s, question("www.example.com A"))); got != "SERVFAIL ede=23" || time.Since(began) > defaultTimeout/2 {
		t.Errorf("killed: got %q after %v", got, time.Since(began))
	}
	daemon(t, "dnsmasq", args...)
	awaitTCP(t, port)
	check("back")
}

// A zoneKey signs the records of a zone.
type zoneKey struct {
	*mdns.DNSKEY
	private crypto.Signer
}

// newZoneKey makes a key for zone.
func newZoneKey(t testing.TB, zone string) zoneKey {
	t.Helper()
	k := &mdns.DNSKEY{Hdr: mdns.RR_Header{Name: zone, Rrtype: mdns.TypeDNSKEY, Class: mdns.ClassINET, Ttl: 60}, Flags: 257, Protocol: 3, Algorithm: mdns.ECDSAP256SHA256}
	private, err := k.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	return zoneKey{k, private.(crypto.Signer)}
}

// sign returns set with its signature.
func (k zoneKey) sign(t testing.TB, set ...mdns.RR) []mdns.RR {
	t.Helper()
	now := time.Now()
	sig := &mdns.RRSIG{
		Hdr:       mdns.RR_Header{Ttl: set[0].Header().Ttl},
		Inception: uint32(now.Add(-time.Hour).Unix()), Expiration: uint32(now.Add(time.Hour).Unix()),
		KeyTag: k.KeyTag(), SignerName: k.Hdr.Name, Algorithm: k.Algorithm,
	}
	if err := sig.Sign(k.private, set); err != nil {
		t.Fatal(err)
	}
	return append(slices.Clone(set), sig)
}

// signedZone returns a zone with a bogus name in it, and its key.
func signedZone(t testing.TB) (func(w mdns.ResponseWriter, q *mdns.Msg), zoneKey) {
	k := newZoneKey(t, "example.")
	var all []mdns.RR
	for _, lines := range [][]string{
		{"www.example. 60 IN A 93.184.1.1", "www.example. 60 IN A 93.184.1.2"},
		{"alias.example. 60 IN CNAME www.example."},
		{"example. 60 IN SOA ns.example. root.example. 1 2 3 4 60"},
		{"https.example. 60 IN HTTPS 1 . alpn=h2"},
	} {
		all = append(all, k.sign(t, records(t, lines...)...)...)
	}
	all = append(all, k.sign(t, k.DNSKEY)...)
	bogus := k.sign(t, records(t, "bogus.example. 60 IN A 93.184.1.3")...)
	addr := bogus[0].(*mdns.A).A
	addr[len(addr)-1]++
	all = append(all, bogus...)
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := zoneReply(q, all)
		if opt := q.IsEdns0(); opt != nil && opt.Do() {
			m.SetEdns0(1232, true)
			for _, rr := range all {
				sig, ok := rr.(*mdns.RRSIG)
				for _, answer := range m.Answer {
					if h := answer.Header(); ok && h.Rrtype == sig.TypeCovered && h.Name == sig.Hdr.Name {
						m.Answer = append(m.Answer, sig)
						break
					}
				}
			}
		}
		w.WriteMsg(m)
	}, k
}

// TestDNSSEC verifies, as a validating guest does, what came through us.
func TestDNSSEC(t *testing.T) {
	t.Parallel()
	handle, key := signedZone(t)
	up := newAuthority(t, handle)
	s := newServer(t, Config{Nameservers: []Nameserver{up.nameserver()}})
	for _, tt := range []struct {
		question string
		sets     int
		ok       bool
	}{
		{"www.example A", 1, true},
		{"WWW.Example A", 1, true},
		{"alias.example A", 2, true},
		{"example DNSKEY", 1, true},
		{"https.example HTTPS", 1, true},
		{"bogus.example A", 1, false},
	} {
		q := question(tt.question)
		q.IsEdns0().SetUDPSize(4096)
		q.IsEdns0().SetDo(true)
		m := ask(t, s, q)
		sets := map[string][]mdns.RR{}
		name := func(h *mdns.RR_Header, t uint16) string { return mdns.CanonicalName(h.Name) + mdns.TypeToString[t] }
		for _, rr := range m.Answer {
			if h := rr.Header(); h.Rrtype != mdns.TypeRRSIG {
				sets[name(h, h.Rrtype)] = append(sets[name(h, h.Rrtype)], rr)
			}
		}
		verified := 0
		for _, rr := range m.Answer {
			if sig, ok := rr.(*mdns.RRSIG); ok {
				err := sig.Verify(key.DNSKEY, sets[name(&sig.Hdr, sig.TypeCovered)])
				if verified++; (err == nil) != tt.ok {
					t.Errorf("%s: verify %v: %v", tt.question, sig, err)
				}
			}
		}
		if verified != tt.sets {
			t.Errorf("%s: got %d signatures, want %d: %v", tt.question, verified, tt.sets, m)
		}
	}
}

// TestUnbound asks a validating resolver: AD, bogus names, CD.
func TestUnbound(t *testing.T) {
	t.Parallel()
	handle, key := signedZone(t)
	up := newAuthority(t, handle)
	port := freePort(t)
	conf := writeFile(t, "unbound.conf", fmt.Sprintf(`
server:
	interface: 127.0.0.1@%d
	access-control: 127.0.0.0/8 allow
	do-daemonize: no
	do-not-query-localhost: no
	use-syslog: no
	logfile: ""
	chroot: ""
	username: ""
	directory: "/"
	pidfile: ""
	ede: yes
	val-log-level: 2
	module-config: "validator iterator"
	trust-anchor: "%s"
	trust-anchor-signaling: no
	qname-minimisation: no
remote-control:
	control-enable: no
forward-zone:
	name: "."
	forward-addr: 127.0.0.1@%d
`, port, strings.ReplaceAll(key.DNSKEY.String(), "\t", " "), up.addr.Port()))
	daemon(t, "unbound", "-d", "-c", conf)
	awaitTCP(t, port)
	s := newServer(t, Config{Nameservers: []Nameserver{{Addr: loopback, Port: port}}})
	for _, tt := range []struct {
		question   string
		do, cd, ad bool
		want       string
		wantAD     bool
	}{
		{"www.example A", false, false, true, "NOERROR 93.184.1.1 93.184.1.2", true},
		{"www.example A", false, false, false, "NOERROR 93.184.1.1 93.184.1.2", false},
		{"alias.example A", false, false, true, "NOERROR www.example. 93.184.1.1 93.184.1.2", true},
		{"bogus.example A", false, false, true, "SERVFAIL ede=6", false},
		{"bogus.example A", false, true, true, "NOERROR 93.184.1.4", false},
	} {
		q := question(tt.question)
		q.IsEdns0().SetDo(tt.do)
		q.CheckingDisabled, q.AuthenticatedData = tt.cd, tt.ad
		m := ask(t, s, q)
		words := strings.Fields(show(m))
		slices.Sort(words[1:]) // unbound turns sets
		want := strings.Fields(tt.want)
		slices.Sort(want[1:])
		if !slices.Equal(words, want) || m.AuthenticatedData != tt.wantAD {
			t.Errorf("%s, DO %t, CD %t, AD %t: got %s, AD %t; want %s, AD %t", tt.question, tt.do, tt.cd, tt.ad, show(m), m.AuthenticatedData, tt.want, tt.wantAD)
		}
	}
}
