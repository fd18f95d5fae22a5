package integration

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
)

// flight returns the first bytes that a row's client says, from its description:
// how, and the names and addresses that are in it.
func flight(t *testing.T, how string, names ...string) string {
	t.Helper()
	name := func(i int) string { return names[i] }
	switch how {
	case "sni":
		return clientHello(t, &tls.Config{ServerName: name(0)})
	case "sni 1.0":
		return clientHello(t, &tls.Config{ServerName: name(0), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	case "sni 1.2":
		return clientHello(t, &tls.Config{ServerName: name(0), MaxVersion: tls.VersionTLS12})
	case "sni dot":
		return handshake(serverName(name(0) + "."))
	case "sni capitals":
		return handshake(serverName(strings.ToUpper(name(0))))
	case "sni two records":
		hello := handshake(serverName(name(0)))
		return inRecords(hello[5:], 1, 4, 5, 40)
	case "sni three bytes each":
		hello := handshake(serverName(name(0)))
		var at []int
		for i := 3; i < len(hello)-5; i += 3 {
			at = append(at, i)
		}
		return inRecords(hello[5:], at...)
	case "sni long":
		return handshake(extension(21, strings.Repeat("\x00", 14000)), serverName(name(0)))
	case "sni twice":
		return handshake(serverName(name(0)), serverName(name(1)))
	case "sni address":
		return handshake(serverName("192.0.2.1"))
	case "sni NUL":
		return handshake(serverName(name(0) + "\x00.x.example"))
	case "sni unfinished":
		hello := handshake(serverName(name(0)))
		return hello[:len(hello)-1]
	case "ech": // the outer name shows, the inner one doesn't
		return clientHello(t, &tls.Config{
			ServerName: name(1), MinVersion: tls.VersionTLS13,
			EncryptedClientHelloConfigList: echConfigs(t, name(0)),
		})
	case "no sni":
		return handshake()
	case "sslv2":
		return "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + strings.Repeat("\x01", 37)
	case "sslv2 of tls":
		return "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + strings.Repeat("\x01", 37)
	case "tls alert":
		return "\x15\x03\x01\x00\x02\x02\x28" + strings.Repeat("x", 20)
	case "tls junk":
		return "\x16\x03\x01\x00\x30\x02" + strings.Repeat("\xff", 47)
	case "http":
		return "GET / HTTP/1.1\r\nHost: " + name(0) + "\r\n\r\n"
	case "http port":
		return "GET / HTTP/1.1\r\nHost: " + name(0) + ":4443\r\n\r\n"
	case "http absolute":
		return "GET http://" + name(0) + "/ HTTP/1.1\r\nHost: " + name(0) + "\r\n\r\n"
	case "http absolute, another host":
		return "GET http://" + name(0) + "/ HTTP/1.1\r\nHost: " + name(1) + "\r\n\r\n"
	case "http two hosts":
		return "GET / HTTP/1.1\r\nHost: " + name(0) + "\r\nHost: " + name(1) + "\r\n\r\n"
	case "http without host":
		return "GET / HTTP/1.0\r\n\r\n"
	case "http another address":
		return "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n"
	case "http bare LF":
		return "GET / HTTP/1.1\nHost: " + name(0) + "\n\n"
	case "http lower case":
		return "GET / http/1.1\r\nHost: " + name(0) + "\r\n\r\n"
	case "ssh":
		return "SSH-2.0-OpenSSH_9.9\r\n"
	case "opaque":
		return "\x00\x01\x02\x03 nothing that anyone knows"
	}
	t.Fatalf("no flight is called %q", how)
	return ""
}

// clientHello returns what crypto/tls says first.
func clientHello(t *testing.T, config *tls.Config) string {
	t.Helper()
	here, there := net.Pipe()
	defer there.Close()
	go func() { // ends with the pipe
		tls.Client(here, config).Handshake()
		here.Close()
	}()
	there.SetReadDeadline(deadline())
	header := make([]byte, 5)
	if _, err := io.ReadFull(there, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(there, body); err != nil {
		t.Fatal(err)
	}
	return string(header) + string(body)
}

// handshake returns a ClientHello with extensions, in one record.
func handshake(extensions ...string) string {
	body := "\x03\x03" + strings.Repeat("R", 32) + "\x00" + long("\x13\x01\xc0\x2f") + "\x01\x00"
	if len(extensions) > 0 {
		body += long(strings.Join(extensions, ""))
	}
	return inRecords("\x01\x00" + long(body))
}

// inRecords returns a handshake message in records that end at the given offsets.
func inRecords(message string, at ...int) string {
	var b strings.Builder
	from := 0
	for _, end := range append(at, len(message)) {
		b.WriteString("\x16\x03\x01" + long(message[from:end]))
		from = end
	}
	return b.String()
}

func serverName(name string) string { return extension(0, long("\x00"+long(name))) }

func extension(number uint16, data string) string {
	return string(binary.BigEndian.AppendUint16(nil, number)) + long(data)
}

// long returns s behind its length in two bytes.
func long(s string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s
}

// echConfigs returns the ECHConfigList, RFC 9849 section 4, of a server whose outer
// name is public.
func echConfigs(t *testing.T, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	contents := "\x01\x00\x20" + long(string(key.PublicKey().Bytes())) + long("\x00\x01\x00\x01") +
		"\x20" + string([]byte{byte(len(public))}) + public + long("")
	return []byte(long("\xfe\x0d" + long(contents)))
}
