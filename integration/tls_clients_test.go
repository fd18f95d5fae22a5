package integration

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// asked answers a request with what the server understood of it.
var asked = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s%s %s\n", r.Proto, r.Method, r.Host, r.URL, body)
})

// TestTLSClients runs real programs, of every TLS library that Debian's are made
// with, in a guest whose TLS is read. None of them is told of an authority: they
// find the sandbox's where the agent has put it.
func TestTLSClients(t *testing.T) {
	t.Parallel()
	lab := netlab.New(t)
	for _, tool := range []string{"curl", "wget", "git", "openssl", "gnutls-cli", "node", "nghttp"} {
		netlab.Tool(t, tool)
	}
	lab.Host(t, "tls-clients.example").HTTPS(443, asked)
	git := lab.Host(t, "git.tls-clients.example")
	git.HTTPS(443, git.GitHandler(map[string]string{"README": "from git\n"}))
	g := startGuest(t, "--tls-intercept", "--allow", "tls-clients.example:443", "--allow", "git.tls-clients.example:443")
	const get = `GET /%s HTTP/1.1\r\nHost: tls-clients.example\r\nConnection: close\r\n\r\n`
	rows := []struct{ name, line, want string }{
		{"curl, OpenSSL", "curl -sS --http1.1 https://tls-clients.example/curl", "HTTP/1.1 GET tls-clients.example/curl"},
		{"curl, OpenSSL, HTTP/2", "curl -sS --http2 -d body https://tls-clients.example/curl2", "HTTP/2.0 POST tls-clients.example/curl2 body"},
		{"libcurl, GnuTLS", `/usr/bin/python3 -c 'import pycurl; assert "GnuTLS" in pycurl.version; c = pycurl.Curl(); c.setopt(c.URL, "https://tls-clients.example/pycurl"); c.perform()'`, "GET tls-clients.example/pycurl"},
		{"git, libcurl with GnuTLS", "ldd /usr/lib/git-core/git-remote-https | grep -q libcurl-gnutls && cd /tmp && git clone -q https://git.tls-clients.example/repo.git && cat repo/README", "from git"},
		{"wget, GnuTLS", "wget -q -O - https://tls-clients.example/wget", "HTTP/1.1 GET tls-clients.example/wget"},
		{"gnutls-cli", "{ printf '" + fmt.Sprintf(get, "gnutls") + "'; sleep 2; } | gnutls-cli --logfile=/dev/null --no-ocsp tls-clients.example", "HTTP/1.1 GET tls-clients.example/gnutls"},
		{"openssl", "printf '" + fmt.Sprintf(get, "openssl") + "' | openssl s_client -quiet -verify_return_error -verify_hostname tls-clients.example -connect tls-clients.example:443", "HTTP/1.1 GET tls-clients.example/openssl"},
		{"Python, OpenSSL", `/usr/bin/python3 -c 'import urllib.request as r; print(r.urlopen("https://tls-clients.example/py").read().decode())'`, "HTTP/1.1 GET tls-clients.example/py"},
		{"requests", `/usr/bin/python3 -c 'import requests; print(requests.post("https://tls-clients.example/requests", data="body").text)'`, "POST tls-clients.example/requests body"},
		{"urllib3", `/usr/bin/python3 -c 'import os, urllib3; print(urllib3.PoolManager(ca_certs=os.environ["SSL_CERT_FILE"]).request("GET", "https://tls-clients.example/urllib3").data.decode())'`, "GET tls-clients.example/urllib3"},
		{"Node", `node -e 'fetch("https://tls-clients.example/node", {method: "PUT", body: "body"}).then(r => r.text()).then(console.log)'`, "PUT tls-clients.example/node body"},
		{"Go", client + " get https://tls-clients.example/go", "HTTP/2.0 GET tls-clients.example/go"},
		{"nghttp", "nghttp https://tls-clients.example/nghttp", "HTTP/2.0 GET tls-clients.example/nghttp"},
		{"a hundred on a connection", "curl -sS 'https://tls-clients.example/[1-100]' | tail -n 1", "tls-clients.example/100"},
	}
	for _, row := range rows {
		if out, code := g.run(row.line); code != 0 || !strings.Contains(out, row.want) {
			t.Errorf("%s: exit code %d, want %q in\n%s", row.name, code, row.want, out)
		}
	}
	eventually(t, "an event for each request", func() bool { return len(g.told(m.EventHTTPRequest)) >= len(rows)+99 })
	if read := g.told(m.EventTLSIntercept); len(read) < len(rows) {
		t.Errorf("the TLS of %d connections was read, want at least %d", len(read), len(rows))
	}
	for _, kind := range []string{m.EventTLSFail, m.EventFlowDeny} {
		for _, e := range g.told(kind) {
			t.Errorf("%s", e.Line())
		}
	}
}

// TestTLSGRPC calls a gRPC server from a guest, in every way that gRPC knows: both
// are gRPC's own C core. What the calls end with comes in trailers. One field holds
// a secret.
func TestTLSGRPC(t *testing.T) {
	const python = "/usr/bin/python3"
	lab := netlab.New(t)
	netlab.Tool(t, python)
	dir := t.TempDir()
	h := lab.Host(t, "grpc.example")
	cert, err := lab.CA.Leaf(time.Now(), nil, h.Name)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key, chain := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	for name, block := range map[string]*pem.Block{key: {Type: "PRIVATE KEY", Bytes: der}, chain: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.Run("ready", python, "testdata/grpc_server.py", key, chain)
	script, err := os.ReadFile("testdata/grpc_client.py")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GRPC_TEST_TOKEN", "correct-horse-battery")
	g := startGuest(t, "--secret", "GRPC_TEST_TOKEN@grpc.example")
	out, code := g.run("TOKEN=$GRPC_TEST_TOKEN " + python + " - grpc.example <<'EOF'\n" + string(script) + "EOF\n")
	const want = `unary: b'you said hello' $MSB_GRPC_TEST_TOKEN yes OK
server streams: 1000
client streams: b'1000000'
in turns: []
Fail fails: FAILED_PRECONDITION not like this because
Late got b'half'
Late fails: DATA_LOSS the rest is lost None`
	if code != 0 || out != want {
		t.Errorf("exit code %d, got\n%swant\n%s", code, out, want)
	}
	g.tells(m.EventSecretInject, func(e m.Event) bool { return e.Secret.Secret == "GRPC_TEST_TOKEN" && e.Secret.Name == h.Name })
	g.tells(m.EventHTTPRequest, func(e m.Event) bool { return e.HTTP.Path == "/test.Test/Late" })
}
