package sandbox

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// A Config is a compiled configuration: what one sandbox is to be.
type Config struct {
	Backend   string // a name for sluice.Open; "" leaves the choice to it
	Root      string // directory that becomes the guest's root; "" is the backend's choice
	Image     string // digest of an image in the cache of Dirs.Images that does; "" for none
	CPUs      uint8  // 0 is the backend's default
	MemoryMiB uint32 // 0 is the backend's default
	// Kernel is the path of the guest's kernel, as in hv.Config; "" leaves it to the
	// backend. The files need to be there until the sandbox has started.
	Kernel   string
	Hostname string
	Network  *Network // nil gives the guest no card
	Warnings []string // for the record
	// Env is what every command's environment begins with. What the guest would
	// set itself, as for certificates, it leaves alone there.
	Env map[string]string
	// LogLevel is the least of the sandbox's remarks that become events; 0 is
	// slog.LevelInfo.
	LogLevel slog.Level
	Patches  []Patch    // changes of the root, made before the first command
	Mounts   []hv.Mount // laid over the root, in this order

	// Keep lets the sandbox's directory stay when it has ended, so that it can
	// be started again; without, nothing stays.
	Keep bool
	// Detached lets it outlive its creator.
	Detached bool
	// MaxDuration ends it after so long, IdleTimeout after so long without
	// activity; 0 is never.
	MaxDuration, IdleTimeout time.Duration
	Labels                   map[string]string
	// ConfigJSON is what its directory says it was made from. It holds no value
	// of a secret.
	ConfigJSON json.RawMessage
}

// A Network describes the guest's network.
type Network struct {
	Pool   vnet.Pool
	MTU    int // 0 means 1500
	Policy *policy.Policy
	Reject bool // answer denied flows, instead of silence
	// AllowRebind and QUIC are Policy's own, which doesn't tell: unlike the rest of
	// it they can't change while the sandbox runs.
	AllowRebind bool
	QUIC        policy.QUICMode

	Nameservers         []dns.Nameserver // none means the host's own
	QueryTimeout        time.Duration    // 0 is package dns's default
	DNSQueriesPerSecond int              // 0 is package dns's default, negative no limit

	Hosts []Host // for the guest's /etc/hosts, beside the names of this host

	Limits    vnet.Limits
	RateLimit vnet.RateLimit
	Ports     []vnet.Binding // published from the start

	// Intercept is what the user says of reading TLS; nil doesn't. The sandbox
	// fills in whom the proxy speaks with.
	Intercept *mitm.Config
	// Secrets are the interception's, with their values.
	Secrets secret.Config
	// TrustHostCAs has the guest trust whom this host trusts.
	TrustHostCAs bool
}

// A Compile function reads a creator's configuration. Its error is a
// *[control.Failure].
type Compile func(raw json.RawMessage) (Config, error)

// Options are what a sandbox gets from the process that it runs in, beside its
// specification.
type Options struct {
	Compile Compile
	// Open returns the hypervisor of a name, "" the platform's choice. See
	// sluice.Open.
	Open func(ctx context.Context, name string) (hv.Hypervisor, error)
	// Stdio are the standard files of the guest's command; nil entries are the
	// null device. They stay the caller's.
	Stdio [3]*os.File
	// Logger gets the sandbox's remarks beside its events; nil is silent.
	Logger *slog.Logger

	leash *leash // of a process of its own; nil in the caller's
}
