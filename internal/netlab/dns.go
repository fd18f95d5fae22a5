package netlab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Addresses of the lab's DNS, which /etc/resolv.conf names.
var (
	DNS4 = netip.MustParseAddr("93.184.216.3")
	DNS6 = netip.MustParseAddr("2606:2800:220::3")
)

// hostTTL is the TTL of hosts' addresses, in seconds.
const hostTTL = 300

// A Query is a question that reached the lab's DNS.
type Query struct {
	Name    string // lower case, without the final dot
	Type    dnsmessage.Type
	Network string // udp or tcp
	From    netip.AddrPort
}

// DNS is the lab's one name server: it is authoritative for everything. Names
// that nobody added don't exist. Its methods may be called concurrently.
type DNS struct {
	mu      sync.Mutex // guards the following fields
	names   map[string][]record
	queries []Query
}

// A record is what a name has of one type.
type record struct {
	typ  dnsmessage.Type
	ttl  uint32
	body dnsmessage.ResourceBody
}

// startDNS makes the host that serves DNS and points this machine at it.
func (l *Lab) startDNS() error {
	l.DNS = &DNS{names: make(map[string][]record)}
	h, err := l.addHost(nil, 0, "dns.netlab.example", []string{DNS4.String(), DNS6.String()})
	if err != nil {
		return err
	}
	l.dnsHost = h
	for _, network := range []string{"udp4", "udp6"} {
		c, err := h.listenPacket(context.Background(), network, 53)
		if err != nil {
			return err
		}
		h.wg.Go(func() { serveUDP(c, l.DNS.serveDatagram) })
	}
	listener, err := l.agent.listen(context.Background(), h.namespace, "tcp", ":53")
	if err != nil {
		return err
	}
	h.onClose(listener.Close)
	h.wg.Go(func() { h.accept(listener, l.DNS.serveConn) })
	return os.WriteFile("/etc/resolv.conf", fmt.Appendf(nil, "nameserver %v\nnameserver %v\n", DNS4, DNS6), 0)
}

// Add gives a name a record for the time of a test. The type is the body's.
func (d *DNS) Add(t testing.TB, name string, ttl uint32, body dnsmessage.ResourceBody) {
	t.Helper()
	r := record{typ: bodyType(body), ttl: ttl, body: body}
	if r.typ == 0 {
		t.Fatalf("netlab: a DNS record of type %T is not known", body)
	}
	name = canonical(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = append(d.names[name], r)
	t.Cleanup(func() { d.remove(name, r) })
}

// A adds an address record, A or AAAA, with a TTL of 300 s.
func (d *DNS) A(t testing.TB, name, addr string) {
	t.Helper()
	d.Add(t, name, hostTTL, addressBody(netip.MustParseAddr(addr)))
}

// CNAME adds an alias.
func (d *DNS) CNAME(t testing.TB, name, target string) {
	t.Helper()
	d.Add(t, name, hostTTL, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(canonical(target) + ".")})
}

// Queries returns the questions that reached the server for a name and those
// below it, oldest first; "" returns all.
func (d *DNS) Queries(name string) []Query {
	name = canonical(name)
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(d.queries), func(q Query) bool {
		return name != "" && q.Name != name && !strings.HasSuffix(q.Name, "."+name)
	})
}

func (d *DNS) addHost(t testing.TB, h *Host) {
	t.Helper()
	for _, a := range h.Addrs {
		d.A(t, h.Name, a.String())
	}
}

func (d *DNS) remove(name string, r record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	records := d.names[name]
	if i := slices.Index(records, r); i >= 0 {
		records = slices.Delete(slices.Clone(records), i, i+1)
	}
	if d.names[name] = records; len(records) == 0 {
		delete(d.names, name)
	}
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func addressBody(a netip.Addr) dnsmessage.ResourceBody {
	if a.Is4() {
		return &dnsmessage.AResource{A: a.As4()}
	}
	return &dnsmessage.AAAAResource{AAAA: a.As16()}
}

// bodyType returns the type of a record's body, 0 if it isn't known.
func bodyType(body dnsmessage.ResourceBody) dnsmessage.Type {
	switch b := body.(type) {
	case *dnsmessage.AResource:
		return dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		return dnsmessage.TypeAAAA
	case *dnsmessage.CNAMEResource:
		return dnsmessage.TypeCNAME
	case *dnsmessage.MXResource:
		return dnsmessage.TypeMX
	case *dnsmessage.NSResource:
		return dnsmessage.TypeNS
	case *dnsmessage.PTRResource:
		return dnsmessage.TypePTR
	case *dnsmessage.SRVResource:
		return dnsmessage.TypeSRV
	case *dnsmessage.TXTResource:
		return dnsmessage.TypeTXT
	case *dnsmessage.UnknownResource:
		return b.Type
	}
	return 0
}

// serveDatagram answers a query over UDP.
func (d *DNS) serveDatagram(query []byte, from net.Addr) []byte {
	return d.answer(query, "udp", from)
}

// serveConn answers queries over TCP, RFC 1035 section 4.2.2.
func (d *DNS) serveConn(c net.Conn) {
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		answer := d.answer(query, "tcp", c.RemoteAddr())
		if answer == nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answer returns the reply to a query, nil if there is none. Over UDP it is cut to
// what the client takes: without records, truncated, so that it asks by TCP.
func (d *DNS) answer(query []byte, network string, from net.Addr) []byte {
	var p dnsmessage.Parser
	asked, err := p.Start(query)
	if err != nil || asked.Response {
		return nil
	}
	question, err := p.Question()
	if err != nil {
		return nil
	}
	size, edns := clientSize(&p)
	answers, exists := d.look(question, network, from)
	header := dnsmessage.Header{
		ID: asked.ID, Response: true, Authoritative: true,
		RecursionDesired: asked.RecursionDesired, RecursionAvailable: true,
	}
	if !exists {
		header.RCode = dnsmessage.RCodeNameError
	}
	reply, err := message(header, question, answers, edns)
	if err == nil && network == "udp" && len(reply) > size {
		header.Truncated = true
		reply, err = message(header, question, nil, edns)
	}
	if err != nil {
		return nil // a record of the test's that doesn't fit a message
	}
	return reply
}

// message returns a reply's bytes.
func message(header dnsmessage.Header, q dnsmessage.Question, answers []namedRecord, edns bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, header)
	b.EnableCompression()
	err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers())
	for _, r := range answers {
		err = errors.Join(err, r.append(&b))
	}
	if edns {
		var h dnsmessage.ResourceHeader
		err = errors.Join(err,
			h.SetEDNS0(1232, dnsmessage.RCodeSuccess, false),
			b.StartAdditionals(),
			b.OPTResource(h, dnsmessage.OPTResource{}))
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// clientSize returns the largest datagram that a query's sender takes, and whether
// it speaks EDNS.
func clientSize(p *dnsmessage.Parser) (size int, edns bool) {
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return 512, false
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return 512, false
		}
		if h.Type == dnsmessage.TypeOPT {
			return max(512, int(h.Class)), true
		}
		if p.SkipAdditional() != nil {
			return 512, false
		}
	}
}

// A namedRecord is a record of an answer.
type namedRecord struct {
	name dnsmessage.Name
	record
}

// look returns the records for a question, aliases followed, and whether the name
// exists. It remembers the question.
func (d *DNS) look(q dnsmessage.Question, network string, from net.Addr) (answers []namedRecord, exists bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	source, _ := netip.ParseAddrPort(from.String())
	d.queries = append(d.queries, Query{canonical(q.Name.String()), q.Type, network, source})
	name := q.Name
	for range 16 { // a loop of aliases ends
		records, found := d.names[canonical(name.String())]
		exists = exists || found
		var target *dnsmessage.CNAMEResource
		for _, r := range records {
			if r.typ == q.Type || q.Type == dnsmessage.TypeALL || r.typ == dnsmessage.TypeCNAME {
				answers = append(answers, namedRecord{name, r})
			}
			if alias, ok := r.body.(*dnsmessage.CNAMEResource); ok {
				target = alias
			}
		}
		if target == nil || q.Type == dnsmessage.TypeCNAME {
			break
		}
		name = target.CNAME
	}
	return answers, exists
}

// append appends the record to a message under construction.
func (r namedRecord) append(b *dnsmessage.Builder) error {
	h := dnsmessage.ResourceHeader{Name: r.name, Class: dnsmessage.ClassINET, TTL: r.ttl}
	switch body := r.body.(type) {
	case *dnsmessage.AResource:
		return b.AResource(h, *body)
	case *dnsmessage.AAAAResource:
		return b.AAAAResource(h, *body)
	case *dnsmessage.CNAMEResource:
		return b.CNAMEResource(h, *body)
	case *dnsmessage.MXResource:
		return b.MXResource(h, *body)
	case *dnsmessage.NSResource:
		return b.NSResource(h, *body)
	case *dnsmessage.PTRResource:
		return b.PTRResource(h, *body)
	case *dnsmessage.SRVResource:
		return b.SRVResource(h, *body)
	case *dnsmessage.TXTResource:
		return b.TXTResource(h, *body)
	case *dnsmessage.UnknownResource:
		return b.UnknownResource(h, *body)
	}
	return errors.New("a record without a known type")
}
