package mitm

import (
	"context"
	"net"
	"net/netip"

	"github.com/sluicenet/sluice/policy"
)

// A Flow is one TCP flow of the guest's, as the network that carries it shows it
// to the Proxy. Its methods may be called concurrently, and until Serve returns.
type Flow interface {
	// Asked returns the destination that the guest wrote, or the last of Connect.
	Asked() netip.AddrPort
	// Source returns the guest's end.
	Source() netip.AddrPort
	// Decide returns the verdict of this moment's policy on the flow, with the name
	// that the guest showed and where: "sni" or "http". Without a name and source
	// it is the verdict on an opaque flow; the source "malformed" says that the
	// bytes may carry a name that can't be told. Who implements it records and
	// reports the verdict.
	Decide(name, from string) policy.Verdict
	// Connect makes the target of an HTTP CONNECT what the flow is about: the other
	// methods are about it from here on. It returns the verdict of this moment's
	// policy. name is how the guest wrote the target, canonical, or "" if that was
	// the address; then a verdict that denies but NeedsName leaves the decision to
	// the name that is shown inside.
	Connect(target netip.AddrPort, name string) policy.Verdict
	// Resolved reports whether the configured resolver gave Asked for a name, and
	// that is still so. A host alias is a name of the gateway.
	Resolved(name string) bool
	// Dial connects to Asked. Each call is a new connection; the error keeps the
	// system's errno.
	Dial(ctx context.Context) (net.Conn, error)
	// Reset makes the guest see a reset instead of an end when its connection is
	// closed next.
	Reset()
}

// Sources of a name, for Flow.Decide.
const (
	fromSNI       = "sni"
	fromHTTP      = "http"
	fromNowhere   = ""
	fromMalformed = "malformed"
)

// byAddress reports whether an address rule or the default allowed, so that no
// name can have had a part in it.
func byAddress(v policy.Verdict) bool { return v.Action == policy.Allow && v.ByAddress }
