package sniff

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// hello returns a ClientHello in one record: well-formed, with exts as its
// extensions, or without the extensions field if there are none.
func hello(exts ...string) string {
	return record(helloMessage(exts...))
}

func helloMessage(exts ...string) string {
	body := "\x03\x03" + strings.Repeat("R", 32) + u8("") + u16("\x13\x01\x13\x02") + u8("\x00")
	if len(exts) > 0 {
		body += u16(strings.Join(exts, ""))
	}
	return "\x01" + u24(body)
}

// ext returns an extension.
func ext(typ uint16, data string) string {
	return string(binary.BigEndian.AppendUint16(nil, typ)) + u16(data)
}

// sni returns a server_name extension with one host name.
func sni(name string) string {
	return ext(extServerName, u16("\x00"+u16(name)))
}

// record returns a handshake record.
func record(payload string) string {
	return "\x16\x03\x01" + u16(payload)
}

// cut returns s in pieces that end at the given offsets.
func cut(s string, at ...int) (pieces []string) {
	from := 0
	for _, i := range append(at, len(s)) {
		pieces = append(pieces, s[from:i])
		from = i
	}
	return pieces
}

// records returns a handshake message in as many records as there are pieces.
func records(pieces ...string) string {
	var b strings.Builder
	for _, p := range pieces {
		b.WriteString(record(p))
	}
	return b.String()
}

// u8, u16 and u24 put the length in front of s.
func u8(s string) string  { return string([]byte{byte(len(s))}) + s }
func u16(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
func u24(s string) string {
	return string([]byte{byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))}) + s
}

// chromeHello returns a ClientHello as Chrome builds them: GREASE (RFC 8701)
// among ciphers, versions and extensions, a GREASE ECH, and a key share that is
// too long for one segment.
func chromeHello(name string) string {
	body := "\x03\x03" + strings.Repeat("R", 32) + u8(strings.Repeat("S", 32)) +
		u16("\x6a\x6a\x13\x01\x13\x02\x13\x03\xc0\x2b\xc0\x2f") + u8("\x00") +
		u16(ext(0x2a2a, "")+
			ext(0x0017, "")+
			ext(extECH, "\x00\x00\x01\x00\x01\x7f"+u16(strings.Repeat("k", 32))+u16(strings.Repeat("p", 144)))+
			sni(name)+
			ext(extSupportedVersions, u8("\xda\xda\x03\x04\x03\x03"))+
			ext(extALPN, u16(u8("h2")+u8("http/1.1")))+
			ext(51, u16("\xba\xba\x00\x01\x00"+"\x11\xec"+u16(strings.Repeat("m", 1216))))+
			ext(0x9a9a, "\x00"))
	return record("\x01" + u24(body))
}

// goHello returns what crypto/tls sends as a client with this configuration.
func goHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	var c recorder
	if err := tls.Client(&c, config).Handshake(); err == nil {
		t.Fatal("handshake with nobody succeeded")
	}
	return c.sent
}

// echConfigList returns an ECHConfigList (RFC 9849) for crypto/tls, of a server
// whose outer name is public.
func echConfigList(t testing.TB, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	contents := "\x01\x00\x20" + u16(string(key.PublicKey().Bytes())) + u16("\x00\x01\x00\x01") + "\x20" + u8(public) + u16("")
	return []byte(u16("\xfe\x0d" + u16(contents)))
}

// A recorder is a connection that keeps what is written, and reads a given
// stream.
type recorder struct {
	input io.Reader
	sent  []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	if r.input == nil {
		return 0, io.EOF
	}
	return r.input.Read(b)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.sent = append(r.sent, b...)
	return len(b), nil
}

func (r *recorder) Close() error                     { return nil }
func (r *recorder) LocalAddr() net.Addr              { return nil }
func (r *recorder) RemoteAddr() net.Addr             { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
