package sniff

import (
	"crypto/tls"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// captured names what real programs sent, as testdata/README.md says. Those
// that can only be asked to connect to a name that resolves sent "localhost".
var captured = map[string]want{
	"head/busybox.bin":                  {HTTP1, "localhost"},
	"head/curl-address.bin":             {Malformed, "another host"},
	"head/curl-chunked.bin":             {HTTP1, "www.example.com"},
	"head/curl-connect.bin":             {Connect, "www.example.com"},
	"head/curl-get-1.0.bin":             {HTTP1, "www.example.com"},
	"head/curl-get.bin":                 {HTTP1, "www.example.com"},
	"head/curl-h2c-upgrade.bin":         {HTTP1, "www.example.com"},
	"head/curl-h2c.bin":                 {HTTP2, ""},
	"head/curl-post.bin":                {HTTP1, "www.example.com"},
	"head/curl-proxy.bin":               {HTTP1, "www.example.com"},
	"head/git.bin":                      {HTTP1, "localhost"},
	"head/node-fetch.bin":               {HTTP1, "localhost"},
	"head/python-urllib.bin":            {HTTP1, "localhost"},
	"head/wget.bin":                     {HTTP1, "localhost"},
	"hello/busybox.bin":                 {TLS, "localhost"},
	"hello/curl-7.88-address.bin":       {TLS, ""},
	"hello/curl-7.88-h2.bin":            {TLS, "www.example.com"},
	"hello/curl-7.88-tls1.2.bin":        {TLS, "www.example.com"},
	"hello/git-gnutls.bin":              {TLS, "www.example.com"},
	"hello/kdig-gnutls.bin":             {TLS, "www.example.com"},
	"hello/node.bin":                    {TLS, "www.example.com"},
	"hello/openssl-3.0-no-sni.bin":      {TLS, ""},
	"hello/openssl-3.0-tls1.0.bin":      {TLS, "www.example.com"},
	"hello/openssl-3.0-tls1.1.bin":      {TLS, "www.example.com"},
	"hello/openssl-3.0-tls1.2.bin":      {TLS, "www.example.com"},
	"hello/openssl-3.0-tls1.3-alpn.bin": {TLS, "www.example.com"},
	"hello/openssl-3.0-upper-case.bin":  {TLS, "www.example.com"},
	"hello/wget-gnutls.bin":             {TLS, "localhost"},
}

// corpus returns first flights of real programs and what they are, by name: the
// captured ones, those that crypto/tls makes here, and Chrome's shape.
func corpus(t testing.TB) map[string]flightOf {
	t.Helper()
	all := make(map[string]flightOf)
	files, err := filepath.Glob("testdata/h*/*.bin")
	if err != nil || len(files) != len(captured) {
		t.Fatalf("found %d captured flights, want %d: %v", len(files), len(captured), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(filepath.ToSlash(file), "testdata/")
		all[name] = flightOf{b, captured[name]}
	}
	for name, config := range goConfigs(t) {
		all["go/"+name] = flightOf{goHello(t, config), want{TLS, config.ServerName}}
	}
	ech := goConfigs(t)["tls1.3"]
	ech.EncryptedClientHelloConfigList = echConfigList(t, "public.example")
	all["go/ech"] = flightOf{goHello(t, ech), want{TLS, "public.example"}}
	all["chrome"] = flightOf{[]byte(chromeHello("www.example.com")), want{TLS, "www.example.com"}}
	return all
}

type flightOf struct {
	bytes []byte
	want
}

func goConfigs(t testing.TB) map[string]*tls.Config {
	t.Helper()
	const name = "www.example.com"
	small := []tls.CurveID{tls.X25519} // every two cuts of a large key share take long
	return map[string]*tls.Config{
		"tls1.0":       {ServerName: name, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10},
		"tls1.1":       {ServerName: name, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"tls1.2":       {ServerName: name, MaxVersion: tls.VersionTLS12},
		"tls1.3":       {ServerName: name, MinVersion: tls.VersionTLS13, CurvePreferences: small},
		"alpn":         {ServerName: name, NextProtos: []string{"h2", "http/1.1"}, CurvePreferences: small},
		"post-quantum": {ServerName: name},
		"no name":      {InsecureSkipVerify: true, CurvePreferences: small},
	}
}

func TestCorpus(t *testing.T) {
	t.Parallel()
	flights := corpus(t)
	for _, name := range slices.Sorted(maps.Keys(flights)) {
		flight := flights[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, name, Classify(flight.bytes, false, dst), flight.want)
			checkOracles(t, flight.bytes, dst)
			checkCuts(t, flight.bytes)
		})
	}
}

// The rows of the tables are cut as well: most of them are no flight of any
// real program.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	for _, row := range firstBytes {
		checkCuts(t, []byte(row.in))
	}
}

// checkCuts checks that b reads the same whole, cut at any one place, and cut
// at any two, and that no prefix of b reads otherwise, but for being undecided.
func checkCuts(t *testing.T, b []byte) {
	t.Helper()
	want := Classify(b, false, dst)
	for i := 0; i <= len(b); i++ {
		once := Flight{Dst: dst}
		if got := once.Next(b[:i:i], false); got != want && got.Kind != More {
			t.Fatalf("%q: prefix of %d: got %+v, want %+v", b, i, got, want)
		}
		for j := i + 1; j < len(b); j++ {
			twice := once
			twice.Next(b[:j:j], false)
			if got := twice.Next(b, false); got != want {
				t.Fatalf("%q: cut at %d and %d: got %+v, want %+v", b, i, j, got, want)
			}
		}
		if got := once.Next(b, false); got != want {
			t.Fatalf("%q: cut at %d: got %+v, want %+v", b, i, got, want)
		}
	}
}
