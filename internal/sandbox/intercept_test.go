package sandbox

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
)

// TestIntercept checks what the guest and the sandbox's client are told of
// interception and secrets.
func TestIntercept(t *testing.T) {
	t.Parallel()
	fake := &hvtest.Fake{}
	s := embed(t, testDirs(t), "intercept", fake, testConfig{Policy: "allow-all", TLSPort: 443, Secret: "s3cr3t-value"}).s
	boot := fake.Guests()[0].Bootstrap()
	if !strings.Contains(string(boot.CA), "BEGIN CERTIFICATE") || strings.Contains(string(boot.CA), "PRIVATE") {
		t.Errorf("the guest is to trust %s", boot.CA)
	}
	if boot.Env["TOKEN"] != "$MSB_TOKEN" {
		t.Errorf("environment %v", boot.Env)
	}
	if got := s.Secrets(); !slices.Equal(got, []string{"TOKEN"}) {
		t.Errorf("secrets %q", got)
	}
	for _, tt := range []struct {
		name, value, want string
	}{
		{"TOKEN", "another-value", ""},
		{"TOKEN", "line\nbreak", control.KindInvalid},
		{"OTHER", "value", control.KindArgument},
	} {
		err := s.SetSecret(tt.name, tt.value)
		if kind(err) != tt.want || err != nil && strings.Contains(err.Error(), tt.value) {
			t.Errorf("set %s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := s.RemoveSecret("OTHER"); kind(err) != control.KindArgument {
		t.Errorf("remove what isn't there: %v", err)
	}
	if err := s.RemoveSecret("TOKEN"); err != nil || len(s.Secrets()) != 0 {
		t.Errorf("removed: %v, %q left", err, s.Secrets())
	}
	none := embed(t, testDirs(t), "none", fake, testConfig{}).s
	if got := none.Secrets(); got == nil || len(got) != 0 {
		t.Errorf("no secrets: %q", got)
	}
	if err := none.SetSecret("TOKEN", "x"); kind(err) != control.KindArgument {
		t.Errorf("set where there are none: %v", err)
	}
}

// TestHostRoots checks where the host's authorities are looked for.
func TestHostRoots(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		env, file, want string // the file that is there; "" is an error
	}{
		{"", rootBundles[0], rootBundles[0]},
		{"", rootBundles[3], rootBundles[3]},
		{"/my.pem", "/my.pem", "/my.pem"},
		{"/my.pem", rootBundles[0], ""},
		{"", "/other.pem", ""},
	} {
		got, err := hostRoots(func(string) string { return tt.env }, func(path string) ([]byte, error) {
			if path != tt.file {
				return nil, fs.ErrNotExist
			}
			return []byte(path), nil
		})
		if string(got) != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
}

// TestProxyRecord checks how the proxy's events are written.
func TestProxyRecord(t *testing.T) {
	t.Parallel()
	src, dst := netip.MustParseAddrPort("10.77.0.2:5000"), netip.MustParseAddrPort("192.0.2.1:443")
	for _, tt := range []struct {
		e    mitm.Event
		want string // behind the peers
	}{
		{mitm.Event{Type: mitm.EventIntercept, Version: "TLS 1.3", ALPN: "h2", Verified: true}, `"tls":{PEERS,"version":"TLS 1.3","alpn":"h2","verified":true}`},
		{mitm.Event{Type: mitm.EventBypass}, `"tls":{PEERS}`},
		{mitm.Event{Type: mitm.EventFail, Leg: "guest", Reason: "r", Fix: "f"}, `"tls":{PEERS,"leg":"guest","reason":"r","fix":"f"}`},
		{mitm.Event{Type: mitm.EventRequest, Method: "GET", Path: "/x", Proto: "HTTP/1.1", Status: 200, Sent: 1, Received: 2, Duration: time.Second}, `"http":{PEERS,"method":"GET","path":"/x","proto":"HTTP/1.1","status":200,"bytes_out":1,"bytes_in":2,"duration_s":1}`},
		{mitm.Event{Type: mitm.EventBlock, Secret: secret.Finding{Secret: "A", Place: "header", Header: "X", Reason: "host", Action: secret.ActionBlock, Count: 1}}, `"secret":{PEERS,"secret":"A","place":"header","header":"X","spelling":"raw","reason":"host","action":"block","count":1}`},
		{mitm.Event{Type: mitm.EventLimit, Limit: "leaves"}, `"limit":"leaves"`},
	} {
		tt.e.Source, tt.e.Destination, tt.e.Name = src, dst, "example.com"
		text, err := json.Marshal(proxyRecord(tt.e))
		if err != nil {
			t.Fatal(err)
		}
		peers := `"src":{"addr":"10.77.0.2","port":5000},"dst":{"addr":"192.0.2.1","port":443},"name":"example.com"`
		if want := strings.Replace(tt.want, "PEERS", peers, 1); !strings.HasSuffix(string(text), want+"}") {
			t.Errorf("%s:\n got %s\nwant %s", tt.e.Type, text, want)
		}
	}
}
