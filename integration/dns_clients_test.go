package integration

import (
	"crypto"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// chain returns n aliases in a row, chain<n>-1 first, with an address at the end.
func chain(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("chain%d-%d.dns.example. 60 IN CNAME chain%d-%d.dns.example.", n, i, n, i+1))
	}
	return append(all, fmt.Sprintf("chain%d-%d.dns.example. 60 IN A 93.184.216.21", n, n))
}

// text returns a record of about n bytes.
func text(name string, n int) string {
	return name + " 60 IN TXT" + strings.Repeat(` "`+strings.Repeat("x", 199)+`"`, n/200)
}

// clientZone is what the clients ask for.
func clientZone(t *testing.T) []mdns.RR {
	lines := []string{
		"www.dns.example. 60 IN A 93.184.216.20",
		"www.dns.example. 60 IN AAAA 2606:2800:220::20",
		"alias.dns.example. 60 IN CNAME www.dns.example.",
		"20.216.184.93.in-addr.arpa. 60 IN PTR www.dns.example.",
		"dns.example. 60 IN MX 10 www.dns.example.",
		"_sip._tcp.dns.example. 60 IN SRV 1 2 5060 www.dns.example.",
		`svc.dns.example. 60 IN HTTPS 1 . alpn="h2" ech="AEX+DQBB" ipv4hint="93.184.216.22" ipv6hint="2606:2800:220::22"`,
		`_8443._foo.dns.example. 60 IN SVCB 1 svc.dns.example. port="8443" ech="AEX+DQBB"`,
		"private.dns.example. 60 IN A 192.168.1.10",
		"mixed.dns.example. 60 IN A 93.184.216.20", "mixed.dns.example. 60 IN A 10.0.0.1",
		"stuffed.dns.example. 60 IN A 93.184.216.20",
		text("t800.dns.example.", 800), text("t3000.dns.example.", 3000), text("t4096.dns.example.", 4200),
	}
	return records(t, append(append(lines, chain(16)...), chain(20)...)...)
}

// TestDNSClients runs the resolvers that guests have against one upstream.
func TestDNSClients(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	up := startUpstream(t, lab, "clients-ns.example", zone(clientZone(t)))
	other := lab.Host(t, "one.one.example", "1.1.1.1", "2606:4700:4700::1111")
	for _, tool := range []string{"dig", "drill", "kdig", "getent", "nc"} {
		netlab.Tool(t, tool)
	}
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	w := lab.Watch(t)
	const four, six = "93.184.216.20", "2606:2800:220::20"
	for _, row := range []struct{ line, want string }{
		{"dig +short www.dns.example", four},
		{"dig +short www.dns.example AAAA", six},
		{"dig +short +tcp alias.dns.example", four},
		{"dig +short @1.1.1.1 www.dns.example", four},
		{"dig +short +tcp @1.1.1.1 www.dns.example", four},
		{"dig +short @2606:4700:4700::1111 www.dns.example AAAA", six},
		{"dig @1.1.1.1 www.dns.example", ";; SERVER: 1.1.1.1#53"},
		{"drill www.dns.example", four},
		{"drill -t www.dns.example AAAA", six},
		{"drill @1.1.1.1 alias.dns.example", four},
		{"kdig +short www.dns.example", four},
		{"kdig +short +tcp alias.dns.example AAAA", six},
		{"kdig +short @1.1.1.1 www.dns.example", four},
		{"getent ahostsv4 alias.dns.example", four},
		{"getent ahostsv6 alias.dns.example", six},
		// Sizes: what fits comes by UDP, the rest truncated, and then by TCP.
		{"dig +ignore +noedns t800.dns.example TXT", "flags: qr tc rd ra;"},
		{"dig +ignore +bufsize=512 t800.dns.example TXT", "flags: qr tc rd ra;"},
		{"dig +ignore +bufsize=1232 t800.dns.example TXT", "flags: qr rd ra;"},
		{"dig +ignore +bufsize=1232 t3000.dns.example TXT", "flags: qr tc rd ra;"},
		{"dig +ignore +bufsize=4096 t3000.dns.example TXT", "flags: qr rd ra;"},
		{"dig +ignore +bufsize=65535 t4096.dns.example TXT", "flags: qr tc rd ra;"},
		{"dig +bufsize=1232 t4096.dns.example TXT", ";; Truncated, retrying in TCP mode."},
		{"dig +bufsize=1232 t4096.dns.example TXT", "ANSWER: 1,"},
		{"drill -t t4096.dns.example TXT | grep -o xxxxxxxxxx | wc -l", "399"}, // 21 strings of 199
		{"kdig +bufsize=512 t4096.dns.example TXT", "ANSWER: 1;"},
		// Names.
		{"dig wWw.dNs.ExAmPlE", "\nwWw.dNs.ExAmPlE.\t"},
		{"dig chain16-0.dns.example", "93.184.216.21"},
		{"dig chain20-0.dns.example", "status: SERVFAIL"},
		{"dig nobody.dns.example", "status: NXDOMAIN"},
		{"dig +short -x " + four, "www.dns.example."},
		{"dig +short dns.example MX", "10 www.dns.example."},
		{"dig +short _sip._tcp.dns.example SRV", "1 2 5060 www.dns.example."},
		{"dig +short svc.dns.example HTTPS", `1 . alpn="h2" ipv4hint=93.184.216.22 ipv6hint=2606:2800:220::22`},
		{"dig +short _8443._foo.dns.example SVCB", "1 svc.dns.example. port=8443"},
		// What is private doesn't come from a public name.
		{"dig private.dns.example", "status: NXDOMAIN"},
		{"dig mixed.dns.example", "EDE: 15 (Blocked)"},
		// What no forwarder answers.
		{"dig dns.example AXFR", "Transfer failed."},
		{"dig +tcp dns.example IXFR=1", "Transfer failed."},
		{"dig +opcode=notify www.dns.example", "status: NOTIMP"},
		{"dig version.bind CH TXT", "status: REFUSED"},
		// The host's names.
		{"dig +short host.docker.internal", "172.16."},
		{"dig +short host.microsandbox.internal AAAA", "fd42:6d73:62"},
		{"dig host.containers.internal TXT", "status: NOERROR"},
		{"dig host.lima.internal MX", "ANSWER: 0"},
		{"getent ahostsv4 host.lima.internal", "172.16."},
	} {
		g.want(row.line, row.want)
	}
	g.fails("getent hosts nobody.dns.example", 2)
	// dig can't ask two questions.
	two := `\022\064\001\000\000\002\000\000\000\000\000\000\003www\003dns\007example\000\000\001\000\001\003www\003dns\007example\000\000\001\000\001`
	g.want(`printf '`+two+`' | nc -u -w 1 1.1.1.1 53 | od -An -tx1`, "12 34 81 81") // a response, FORMERR
	w.None(t, other.To())
	for _, suffix := range []string{"internal.", "bind."} {
		if asked := up.questions(suffix); len(asked) > 0 {
			t.Errorf("the upstream was asked for %s", asked)
		}
	}
	// The upstream sees lower case or a mix of our own, never the guest's.
	for _, asked := range up.questions("www.dns.example") {
		if strings.HasPrefix(asked, "wWw.dNs.ExAmPlE.") {
			t.Errorf("the upstream was asked for %s", asked)
		}
	}
	allowed := g.tells(m.EventDNSQuery, func(e m.Event) bool { return e.DNS.Name == "alias.dns.example" })
	if v := allowed.Verdict; v == nil || v.Action != m.PolicyActionAllow || v.Source == "" || v.Text == "" {
		t.Errorf("event %s: want the rule that permits", allowed.Line())
	}
}

// muslClient resolves its argument as musl's programs do.
const muslClient = `
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all = NULL;
	int err = getaddrinfo(argv[1], NULL, &hints, &all);
	if (err) {
		printf("%s\n", gai_strerror(err));
		return 2;
	}
	for (struct addrinfo *a = all; a; a = a->ai_next) {
		char text[INET6_ADDRSTRLEN];
		void *addr = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
		                                     : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		puts(inet_ntop(a->ai_family, addr, text, sizeof text));
	}
	return 0;
}
`

// TestDNSMusl runs musl's resolver, which asks all servers at once and for both
// families at once, and busybox's.
func TestDNSMusl(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	up := startUpstream(t, lab, "musl-ns.example", zone(clientZone(t)))
	source := filepath.Join(t.TempDir(), "resolve.c")
	if err := os.WriteFile(source, []byte(muslClient), 0o644); err != nil {
		t.Fatal(err)
	}
	resolve := filepath.Join(filepath.Dir(client), "musl-resolve")
	if out, err := exec.CommandContext(t.Context(), netlab.Tool(t, "musl-gcc"), "-static", "-o", resolve, source).CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc: %v\n%s", err, out)
	}
	g := startGuest(t, "--quiet", "--dns", up.IP4.String(), "--allow", ".dns.example")
	for _, row := range []struct{ line, want string }{
		{resolve + " www.dns.example", "93.184.216.20"},
		{resolve + " www.dns.example", "2606:2800:220::20"},
		{resolve + " alias.dns.example", "2606:2800:220::20"},
		{resolve + " chain16-0.dns.example", "93.184.216.21"},
		{resolve + " host.docker.internal", "172.16."},
		{netlab.Tool(t, "busybox") + " nslookup www.dns.example", "93.184.216.20"},
	} {
		g.want(row.line, row.want)
	}
	for _, name := range []string{"nobody.dns.example", "denied.example"} {
		// musl asks again after half of its five seconds, and would wait for all of them.
		g.fails("timeout 4 "+resolve+" "+name, 2)
	}
	if asked := up.questions("denied.example"); len(asked) > 0 {
		t.Errorf("the upstream was asked for %s", asked)
	}
}

// TestDNSSECPassedThrough lets a guest validate what comes through.
func TestDNSSECPassedThrough(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	delv := netlab.Tool(t, "delv")
	key := &mdns.DNSKEY{
		Hdr:   mdns.RR_Header{Name: "signed.example.", Rrtype: mdns.TypeDNSKEY, Class: mdns.ClassINET, Ttl: 60},
		Flags: 257, Protocol: 3, Algorithm: mdns.ECDSAP256SHA256,
	}
	private, err := key.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	all := []mdns.RR{}
	for _, rr := range append(records(t,
		"www.signed.example. 60 IN A 93.184.216.23",
		"alias.signed.example. 60 IN CNAME www.signed.example.",
		text("long.signed.example.", 3000),
		"forged.signed.example. 60 IN A 93.184.216.24",
	), key) {
		now := time.Now()
		sig := &mdns.RRSIG{
			Hdr: mdns.RR_Header{Ttl: 60}, Inception: uint32(now.Add(-time.Hour).Unix()), Expiration: uint32(now.Add(time.Hour).Unix()),
			KeyTag: key.KeyTag(), SignerName: key.Hdr.Name, Algorithm: key.Algorithm,
		}
		if err := sig.Sign(private.(crypto.Signer), []mdns.RR{rr}); err != nil {
			t.Fatal(err)
		}
		if a, ok := rr.(*mdns.A); ok && strings.HasPrefix(a.Hdr.Name, "forged.") {
			a.A = slices.Clone(a.A)
			a.A[len(a.A)-1]++
		}
		all = append(all, rr, sig)
	}
	up := startUpstream(t, lab, "signed-ns.example", zone(all))
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	anchor := fmt.Sprintf(`trust-anchors { "signed.example." static-key 257 3 %d "%s"; };`, key.Algorithm, key.PublicKey)
	validate := "echo '" + anchor + "' >/tmp/anchor && " + delv + " -a /tmp/anchor +root=signed.example "
	g.want(validate+"www.signed.example", "; fully validated")
	g.want(validate+"alias.signed.example", "; fully validated")
	g.want(validate+"long.signed.example TXT", "; fully validated")
	if out, _ := g.run(validate + "forged.signed.example"); strings.Contains(out, "fully validated") || !strings.Contains(out, "RRSIG failed to verify") {
		t.Errorf("delv believes the forgery:\n%s", out)
	}
	g.want("dig +dnssec www.signed.example", "RRSIG\tA 13 3 60")
	if out, _ := g.run("dig www.signed.example"); strings.Contains(out, "RRSIG") {
		t.Errorf("signatures for who wants none:\n%s", out)
	}
}

// TestDNSHints shows that hints are addresses: they open what a domain rule allows,
// and only once they were asked for.
func TestDNSHints(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	web, stranger := lab.Host(t, "hinted.example"), lab.Host(t, "stranger.example")
	web.HTTP(80, hello)
	stranger.HTTP(80, hello)
	up := startUpstream(t, lab, "hints-ns.example", func(w mdns.ResponseWriter, q *mdns.Msg) {
		zone(records(t,
			fmt.Sprintf(`hint.dns.example. 60 IN HTTPS 1 . alpn="h2" ech="AEX+DQBB" ipv4hint="%s" ipv6hint="%s"`, web.IP4, web.IP6),
			fmt.Sprintf(`mandatory.dns.example. 60 IN HTTPS 1 . mandatory="ech" ech="AEX+DQBB" ipv4hint="%s"`, stranger.IP4),
		))(w, q)
	})
	netlab.Tool(t, "curl")
	g := startGuest(t, "--quiet", "--dns", up.IP4.String(), "--allow", ".dns.example", "--deny-response", "reject")
	get := func(name, addr string) string {
		return fmt.Sprintf("curl -sS --max-time 5 --resolve '%s:80:%s' http://%s/", name, addr, name)
	}
	g.fails(get("hint.dns.example", web.IP4.String()), 0)
	if out, _ := g.run("dig +dnssec hint.dns.example HTTPS"); strings.Contains(out, "ech=") || !strings.Contains(out, "ipv4hint=") {
		t.Errorf("want hints and no ech:\n%s", out)
	}
	g.want(get("hint.dns.example", web.IP4.String()), "hello")
	g.want(get("hint.dns.example", "["+web.IP6.String()+"]"), "hello")
	g.want("dig mandatory.dns.example HTTPS", "ANSWER: 0")
	w := lab.Watch(t)
	g.fails(get("mandatory.dns.example", stranger.IP4.String()), 0)
	g.fails(get("hint.dns.example", stranger.IP4.String()), 0)
	w.None(t, stranger.To())
}

// TestDNSInactiveFamily shows that addresses of a family that the host has no way
// to aren't given to the guest.
func TestDNSInactiveFamily(t *testing.T) {
	lab := netlab.New(t)
	up := startUpstream(t, lab, "family-ns.example", zone(clientZone(t)))
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	g.want("dig +short www.dns.example AAAA", "2606:2800:220::20")
	lab.LoseFamily(t, 6)
	eventually(t, "AAAA is NODATA", func() bool {
		out, _ := g.run("dig www.dns.example AAAA")
		return strings.Contains(out, "status: NOERROR") && strings.Contains(out, "ANSWER: 0")
	})
	g.want("dig +short www.dns.example", "93.184.216.20")
	g.want("getent ahosts www.dns.example", "93.184.216.20")
	g.want("dig +short svc.dns.example HTTPS", "ipv4hint=93.184.216.22")
	if out, _ := g.run("dig +short svc.dns.example HTTPS"); strings.Contains(out, "ipv6hint") {
		t.Errorf("a hint of the inactive family: %s", out)
	}
}

// TestDNSPipelining asks over one TCP connection, with bytes that come one by one.
func TestDNSPipelining(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	up := startUpstream(t, lab, "pipeline-ns.example", zone(clientZone(t)))
	g := startGuest(t, "--quiet", "--dns", up.IP4.String())
	q, err := new(mdns.Msg).SetQuestion("www.dns.example.", mdns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	const queries = 50
	var stream strings.Builder
	for range queries {
		for _, b := range append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) {
			fmt.Fprintf(&stream, `\%03o`, b)
		}
	}
	reply := len(q) + 16 // one record whose name is a pointer
	g.want(fmt.Sprintf(`printf '%s' | nc -N -w 5 1.1.1.1 53 | wc -c`, stream.String()), fmt.Sprint(queries*(2+reply)))
	if asked := up.questions("www.dns.example"); len(asked) != 1 {
		t.Errorf("the upstream was asked %d times for what one answer answers: %v", len(asked), asked)
	}
}
