package integration

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
	m "github.com/sluicenet/sluice/sdk"
)

// TestToolsReplaceUnderLoad replaces the policy again and again under flows that send
// as fast as they can: those that stay allowed lose nothing, those that are denied end
// on both sides.
func TestToolsReplaceUnderLoad(t *testing.T) {
	t.Parallel()
	const flows, size = 8, 8 << 20
	want := payloadDigest(t, size)
	lab := netlab.New(t)
	netlab.Tool(t, "nc")
	kept, cut := lab.Host(t, "kept.replace.example"), lab.Host(t, "cut.replace.example")
	kept.TCP(1, func(c net.Conn) { write(c, size) })
	var open atomic.Int64
	cut.TCP(1, func(c net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		io.Copy(c, newPayload(1<<62)) // until it is reset
	})
	g := startGuest(t)
	name := g.tells(m.EventSandboxStarted, func(m.Event) bool { return true }).Sandbox
	for _, h := range []*netlab.Host{kept, cut} {
		for i := range flows {
			g.want(fmt.Sprintf("nc -d %s 1 2>&1 | sha256sum >/tmp/%s.%d & echo begun", address(h, families[i%2]), h.Name, i), "begun")
		}
	}
	eventually(t, "all flows are open", func() bool { return open.Load() == flows })
	for i := range 20 { // none of them matters to any flow
		other := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		if out, code := runSluice(t, "policy", "deny", name, other.String()); code != 0 {
			t.Fatalf("replacement %d: exit code %d, %s", i, code, out)
		}
	}
	for _, f := range families {
		if out, code := runSluice(t, "policy", "deny", name, address(cut, f)); code != 0 {
			t.Fatalf("exit code %d, %s", code, out)
		}
	}
	eventually(t, "what is denied has ended", func() bool { return open.Load() == 0 })
	g.eventually("cat /tmp/"+kept.Name+".? | grep -c "+want, fmt.Sprint(flows))
	g.eventually("cat /tmp/"+cut.Name+".? | wc -l", fmt.Sprint(flows)) // in the guest too
}
