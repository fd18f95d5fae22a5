package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
)

func TestMain(m *testing.M) {
	Dispatch(testCompile)
	becomeCreator()
	netlab.Main(m)
}

// A testConfig is what the sandboxes' processes of this package's tests are told
// to be, or to do wrong.
type testConfig struct {
	Refuse string `json:"refuse,omitempty"` // compiling fails with this
	Panic  string `json:"panic,omitempty"`  // and with this
	Hang   bool   `json:"hang,omitempty"`   // compiling takes for ever
	Policy string `json:"policy,omitempty"` // a preset; "" is no network
	Pool4  string `json:"pool4,omitempty"`  // "" is 10.77.0.0/24
	TCP    int    `json:"tcp,omitempty"`    // flows

	TLSPort uint16 `json:"tls_port,omitempty"` // is intercepted; 0 is none
	Roots   []byte `json:"roots,omitempty"`    // PEM, of whom upstreams may be
	Secret  string `json:"secret,omitempty"`   // value of TOKEN, for the first host alias
	Plain   bool   `json:"plain,omitempty"`    // it may go there without TLS

	Image   string  `json:"image,omitempty"`
	Patches []Patch `json:"patches,omitempty"`

	Keep     bool              `json:"keep,omitempty"`
	Detached bool              `json:"detached,omitempty"`
	Idle     time.Duration     `json:"idle,omitempty"`
	Limit    time.Duration     `json:"limit,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// testCompile is the tests' Compile function.
func testCompile(raw json.RawMessage) (Config, error) {
	var c testConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return Config{}, err
	}
	switch {
	case c.Refuse != "":
		return Config{}, &control.Failure{Kind: control.KindInvalid, Message: c.Refuse, Hint: "don't"}
	case c.Panic != "":
		panic(c.Panic)
	case c.Hang:
		fmt.Fprintln(os.Stderr, "hanging")
		select {}
	}
	out := Config{
		Backend:     "namespace",
		Hostname:    "guest",
		Warnings:    []string{"a warning"},
		Image:       c.Image,
		Patches:     c.Patches,
		Keep:        c.Keep,
		Detached:    c.Detached,
		IdleTimeout: c.Idle,
		MaxDuration: c.Limit,
		Labels:      c.Labels,
		ConfigJSON:  raw,
	}
	if c.Policy == "" {
		return out, nil
	}
	preset, err := policy.Preset(c.Policy)
	if err != nil {
		return Config{}, err
	}
	p, err := policy.New(preset)
	if err != nil {
		return Config{}, err
	}
	if c.Pool4 == "" {
		c.Pool4 = "10.77.0.0/24"
	}
	out.Network = &Network{Policy: p, Pool: mustPool(nil, c.Pool4, "fd77::/56")}
	out.Network.Limits.TCPFlows = c.TCP
	if c.TLSPort != 0 {
		out.Network.Intercept = &mitm.Config{Ports: []uint16{c.TLSPort}, ExtraRoots: c.Roots}
	}
	if c.Secret != "" {
		out.Network.Secrets.Secrets = []secret.Secret{{EnvVar: "TOKEN", Value: secret.NewValue(c.Secret), AllowHosts: policy.HostAliases()[:1], AllowPlain: c.Plain}}
	}
	return out, nil
}

// raw returns the JSON of a configuration.
func (c testConfig) raw() json.RawMessage {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return text
}

// testDirs returns directories of a test's own.
func testDirs(t *testing.T) Dirs {
	t.Helper()
	d := Dirs{Home: t.TempDir() + "/home", Runtime: t.TempDir() + "/run"}
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	return d
}
