package dns

import (
	"encoding/hex"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/dns/dnsmessage"
)

// unhex returns the bytes of hexadecimal digits with spaces between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Parts of messages: a header with QD and AR counts, a question for www.a. A IN,
// and an OPT record of 1232 bytes with DO.
const (
	hdr10 = "1234 0100 0001 0000 0000 0000 "
	hdr11 = "1234 0100 0001 0000 0000 0001 "
	hdr12 = "1234 0100 0001 0000 0000 0002 "
	wwwA  = "03777777 0161 00 0001 0001 "
	opt   = "00 0029 04d0 00 00 8000 0000 "
)

func TestParseQuery(t *testing.T) {
	t.Parallel()
	const drop = -1
	for _, tt := range []struct {
		name, msg string
		want      int // response code, or drop
	}{
		{"plain", hdr10 + wwwA, mdns.RcodeSuccess},
		{"root", hdr10 + "00 0002 0001", mdns.RcodeSuccess},
		{"EDNS", hdr11 + wwwA + opt, mdns.RcodeSuccess},
		{"EDNS with a cookie", hdr11 + wwwA + "00 0029 04d0 00 00 8000 000c 000a 0008 0102030405060708", mdns.RcodeSuccess},
		{"another additional record", hdr12 + wwwA + opt + "c00c 0001 0001 00000000 0004 01020304", mdns.RcodeSuccess},
		{"an answer in the query", "1234 0100 0001 0001 0000 0000" + wwwA + "c00c 0001 0001 00000000 0004 01020304", mdns.RcodeSuccess},
		{"empty", "", drop},
		{"half a header", "1234 0100 0001", drop},
		{"a response", "1234 8100 0001 0000 0000 0000" + wwwA, drop},
		{"a response with garbage", "1234 8180 ffff ffff ffff ffff 00", drop},
		{"opcode IQUERY", "1234 0900 0001 0000 0000 0000" + wwwA, mdns.RcodeNotImplemented},
		{"opcode STATUS", "1234 1100 0001 0000 0000 0000" + wwwA, mdns.RcodeNotImplemented},
		{"opcode UPDATE", "1234 2900 0001 0000 0000 0000" + wwwA, mdns.RcodeNotImplemented},
		{"opcode 15 without anything", "1234 7900 0000 0000 0000 0000", mdns.RcodeNotImplemented},
		{"no question", "1234 0100 0000 0000 0000 0000", mdns.RcodeFormatError},
		{"two questions", "1234 0100 0002 0000 0000 0000" + wwwA + wwwA, mdns.RcodeFormatError},
		{"question cut in its name", hdr10 + "03777777 0161", mdns.RcodeFormatError},
		{"question cut in its type", hdr10 + "03777777 0161 00 0001 00", mdns.RcodeFormatError},
		{"compressed question", hdr10 + "c00c 0001 0001", mdns.RcodeFormatError},
		{"pointer to itself behind a label", hdr10 + "0161 c00c 0001 0001", mdns.RcodeFormatError},
		{"label type 01", hdr10 + "4161 00 0001 0001", mdns.RcodeFormatError},
		{"name of 255 bytes", hdr10 + strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3d" + strings.Repeat("61", 61) + "00 0001 0001", mdns.RcodeSuccess},
		{"name of 256 bytes", hdr10 + strings.Repeat("3f"+strings.Repeat("61", 63), 3) + "3e" + strings.Repeat("61", 62) + "00 0001 0001", mdns.RcodeFormatError},
		{"name without end", hdr10 + strings.Repeat("0161", 200), mdns.RcodeFormatError},
		{"bytes behind the question", hdr10 + wwwA + "00", mdns.RcodeFormatError},
		{"record counted but missing", hdr11 + wwwA, mdns.RcodeFormatError},
		{"two OPT records", hdr12 + wwwA + opt + opt, mdns.RcodeFormatError},
		{"OPT not at the root", hdr11 + wwwA + "0161 00 0029 04d0 00 00 8000 0000", mdns.RcodeFormatError},
		{"OPT at a pointer", hdr11 + wwwA + "c012 0029 04d0 00 00 8000 0000", mdns.RcodeFormatError},
		{"OPT in the answer section", "1234 0100 0001 0001 0000 0000" + wwwA + opt, mdns.RcodeFormatError},
		{"OPT with half an option", hdr11 + wwwA + "00 0029 04d0 00 00 8000 0003 000a 00", mdns.RcodeFormatError},
		{"OPT option longer than the record", hdr11 + wwwA + "00 0029 04d0 00 00 8000 0005 000a 0008 01", mdns.RcodeFormatError},
		{"OPT longer than the message", hdr11 + wwwA + "00 0029 04d0 00 00 8000 0010", mdns.RcodeFormatError},
		{"EDNS version 1", hdr11 + wwwA + "00 0029 04d0 00 01 0000 0000", mdns.RcodeBadVers},
		{"longer than we read", hdr11 + wwwA + "00 0029 04d0 00 00 8000 1004 000c 1000" + strings.Repeat("00", 4096), mdns.RcodeFormatError},
	} {
		_, got, ok := parseQuery(unhex(t, tt.msg))
		if !ok {
			got = drop
		}
		if got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestParseQueryFields(t *testing.T) {
	t.Parallel()
	m := new(mdns.Msg).SetQuestion("WwW.Example.com.", mdns.TypeHTTPS)
	m.Id, m.CheckingDisabled, m.AuthenticatedData, m.RecursionDesired = 0xabcd, true, true, true
	m.SetEdns0(4000, true)
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	q, rcode, ok := parseQuery(wire)
	if !ok || rcode != 0 || q.id != 0xabcd || !q.cd || !q.ad || !q.rd || q.qtype != mdns.TypeHTTPS || q.qclass != 1 ||
		!q.edns || !q.do || q.size != 4000 || !q.plain || string(q.wire()) != "\x03WwW\x07Example\x03com\x00" {
		t.Errorf("got %+v, %d, %t", q, rcode, ok)
	}
}

func TestUDPSize(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		edns       bool
		size, want int
	}{
		{false, 0, 512},
		{true, 0, 512}, // "MUST be treated as equal to 512": RFC 6891, section 6.2.3
		{true, 511, 512},
		{true, 512, 512},
		{true, 1232, 1232},
		{true, 65535, maxUDPSize},
	} {
		q := query{edns: tt.edns, size: tt.size}
		if got := q.udpSize(); got != tt.want {
			t.Errorf("EDNS %t with size %d: got %d, want %d", tt.edns, tt.size, got, tt.want)
		}
	}
}

func TestSkipName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, msg string
		want      int
	}{
		{"root", "00", 1},
		{"labels", "0161 0162 00", 5},
		{"pointer", "c000", 2},
		{"label and pointer", "0161 c000", 4},
		{"pointer to itself", "c000", 2},
		{"forward pointer", "c0ff", 2},
		{"cut pointer", "c0", -1},
		{"cut label", "0361", -1},
		{"no end", "0161", -1},
		{"label type 10", "8061", -1},
		{"empty", "", -1},
	} {
		if got := skipName(unhex(t, tt.msg), 0); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

// FuzzQuery compares parseQuery with the standard library's parser, and checks
// what a Server that knows nobody answers.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{hdr10 + wwwA, hdr11 + wwwA + opt, hdr12 + wwwA + opt + opt, hdr10 + "c00c 0001 0001", "1234 2900 0001 0000 0000 0000" + wwwA} {
		f.Add(unhex(f, s))
	}
	s := newServer(f, Config{Nameservers: []Nameserver{{Host: "nobody.invalid", Port: 53}}})
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, rcode, ok := parseQuery(msg)
		checkQuery(t, msg, &q, rcode, ok)
		if !ok || rcode != mdns.RcodeSuccess || unsupported(&q) != "" || !q.plain {
			checkLocalReply(t, s, msg, &q, ok)
		}
	})
}

// checkQuery fails if dnsmessage reads a message otherwise.
func checkQuery(t *testing.T, msg []byte, q *query, rcode int, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if !ok {
		if err == nil && !h.Response {
			t.Fatalf("dropped a query %+v", h)
		}
		return
	}
	if err != nil {
		t.Fatalf("accepted a message that dnsmessage refuses: %v", err)
	}
	if q.id != h.ID || q.opcode != int(h.OpCode) || rcode == 0 && q.rd != h.RecursionDesired {
		t.Fatalf("header: got %+v, want %+v", q, h)
	}
	questions, err := p.AllQuestions()
	if rcode != mdns.RcodeSuccess {
		return
	}
	if !q.plain {
		return // dnsmessage refuses such names in one spelling or another
	}
	if err != nil || len(questions) != 1 {
		t.Fatalf("accepted questions that dnsmessage refuses: %v, %v", questions, err)
	}
	want := questions[0]
	if q.qtype != uint16(want.Type) || q.qclass != uint16(want.Class) {
		t.Fatalf("question: got type %d class %d, want %v", q.qtype, q.qclass, want)
	}
	got := string(appendText(nil, q.wire()))
	if lowered := strings.TrimSuffix(strings.ToLower(want.Name.String()), "."); got != lowered {
		t.Fatalf("name: got %q, want %q", got, lowered)
	}
}

// checkLocalReply fails if the Server doesn't answer at once, with a message
// that dnsmessage can read and that fits the query.
func checkLocalReply(t *testing.T, s *Server, msg []byte, q *query, ok bool) {
	var answer []byte
	s.ServeDatagram(msg, func(a []byte) { answer = a })
	if (answer != nil) != ok {
		t.Fatalf("answered %t, want %t", answer != nil, ok)
	}
	if !ok {
		return
	}
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil || !h.Response || h.ID != q.id || len(answer) > plainUDPSize {
		t.Fatalf("answer %x: %+v, %v", answer, h, err)
	}
	if q.hasQuestion && !q.plain {
		return // dnsmessage can't read the name that we repeat
	}
	questions, err := p.AllQuestions()
	if err != nil || (len(questions) == 1) != q.hasQuestion {
		t.Fatalf("answer %x: questions %v, %v", answer, questions, err)
	}
	if err := p.SkipAllAnswers(); err != nil {
		t.Fatal(err)
	}
	if err := p.SkipAllAuthorities(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AllAdditionals(); err != nil {
		t.Fatal(err)
	}
}
