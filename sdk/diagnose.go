package sdk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/sluicenet/sluice"
	"github.com/sluicenet/sluice/internal/confine"
	"github.com/sluicenet/sluice/internal/sandbox"
	"github.com/sluicenet/sluice/vnet"
)

// A DiagnosisStatus says how a check came out.
type DiagnosisStatus string

const (
	DiagnosisOK   DiagnosisStatus = "ok"
	DiagnosisWarn DiagnosisStatus = "warn" // something will be missing
	DiagnosisFail DiagnosisStatus = "fail" // no sandbox can run, or not on that backend
)

// A Diagnosis is what one check found out.
type Diagnosis struct {
	Check  string          `json:"check"` // for example "backend namespace"
	Status DiagnosisStatus `json:"status"`
	Detail string          `json:"detail"`        // what was seen
	Fix    string          `json:"fix,omitempty"` // a command or setting that would help; "" if none is known or needed
}

// Diagnose finds out what sandboxes can do on this machine, by doing it: it asks
// the resolver for a name, opens sockets, asks the kernel how far it confines a
// process, and runs a command in a guest of each backend. It takes seconds.
func Diagnose(ctx context.Context) []Diagnosis {
	found := []Diagnosis{checkState(), checkFiles(), checkFamilies(), checkEcho()}
	found = append(found, checkResolver(ctx)...)
	found = append(found, checkConfinement(confine.Probe()))
	return append(found, checkBackends(ctx)...)
}

// checkState looks at the directories of states and sockets, and removes what
// crashed sandboxes left there.
func checkState() Diagnosis {
	d := Diagnosis{Check: "state", Status: DiagnosisFail, Fix: "set SLUICE_HOME to a directory of yours"}
	dirs, err := sandbox.UserDirs(os.Getenv)
	if err != nil {
		d.Detail = err.Error()
		return d
	}
	if err := dirs.Create(); err != nil {
		d.Detail = err.Error()
		return d
	}
	swept, err := dirs.Sweep()
	if err != nil {
		d.Detail = err.Error()
		return d
	}
	d.Status, d.Fix = DiagnosisOK, ""
	d.Detail = fmt.Sprintf("in %s, sockets in %s", dirs.Home, dirs.Runtime)
	if len(swept) > 0 {
		d.Detail += "; removed what was left of " + strings.Join(swept, ", ")
	}
	return d
}

// checkFiles compares the limit of open files with what a sandbox wants.
func checkFiles() Diagnosis {
	d := Diagnosis{Check: "open files", Status: DiagnosisOK}
	tcp, udp, limit, err := sandbox.DefaultLimits()
	switch {
	case err != nil:
		d.Status, d.Detail = DiagnosisWarn, err.Error()
	case tcp < sandbox.DefaultTCPFlows || udp < sandbox.DefaultUDPSessions:
		d.Status, d.Fix = DiagnosisWarn, "ulimit -Hn 8192 (see limits.conf(5))"
		fallthrough
	default:
		d.Detail = fmt.Sprintf("%d: room for %d TCP flows and %d UDP sockets per sandbox", limit, tcp, udp)
	}
	return d
}

// checkFamilies looks for routes that lead out.
func checkFamilies() Diagnosis {
	d := Diagnosis{Check: "routes", Status: DiagnosisOK}
	v4, v6, err := sandbox.Families()
	switch {
	case err != nil:
		d.Status, d.Detail = DiagnosisWarn, err.Error()
	case v4 && v6:
		d.Detail = "IPv4 and IPv6"
	case v4:
		d.Detail = "IPv4 only: guests get no IPv6 default route"
	case v6:
		d.Detail = "IPv6 only: guests get no IPv4 default route"
	default:
		d.Status, d.Detail = DiagnosisWarn, "none: guests reach only this host"
	}
	return d
}

// checkEcho opens the socket that pings go through.
func checkEcho() Diagnosis {
	d := Diagnosis{Check: "ping", Status: DiagnosisOK, Detail: "echo sockets can be opened"}
	dialer := vnet.NewDialer()
	for _, v6 := range []bool{false, true} {
		c, err := dialer.ListenICMP(v6)
		if err != nil {
			d.Status, d.Detail = DiagnosisWarn, "guests can't ping: "+err.Error()
			d.Fix = `sysctl -w net.ipv4.ping_group_range="0 2147483647"`
			return d
		}
		if err := c.Close(); err != nil {
			d.Status, d.Detail = DiagnosisWarn, err.Error()
		}
	}
	return d
}

// A name that has had an address for thirty years (RFC 6761, section 6.5), and
// the range from which proxies on the host answer with made-up ones.
const someName = "example.com."

var fakeRange = netip.MustParsePrefix("198.18.0.0/15")

// resolverTime is longer than a query's default.
const resolverTime = 5 * time.Second

// checkResolver asks the host's resolver for a name.
func checkResolver(ctx context.Context) []Diagnosis {
	ctx, cancel := context.WithTimeout(ctx, resolverTime)
	defer cancel()
	d := Diagnosis{Check: "resolver", Status: DiagnosisOK}
	started := time.Now()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", someName)
	if err != nil {
		d.Status, d.Detail, d.Fix = DiagnosisWarn, err.Error(), "check /etc/resolv.conf, or give nameservers (--dns)"
		return []Diagnosis{d}
	}
	d.Detail = fmt.Sprintf("answered in %v", time.Since(started).Round(time.Millisecond))
	for _, a := range addrs {
		if fakeRange.Contains(a.Unmap()) {
			return []Diagnosis{d, {"addresses", DiagnosisWarn,
				fmt.Sprintf("the resolver answers %v for a public name: a proxy on this host makes addresses up, which no policy counts as public", a),
				"add the rule `allow 198.18.0.0/15`, or give other nameservers (--dns)"}}
		}
	}
	return []Diagnosis{d}
}

// checkBackends checks every backend of this platform. One that works is enough:
// what is wrong with others is only good to know then.
func checkBackends(ctx context.Context) []Diagnosis {
	var found []Diagnosis
	works := false
	for _, b := range sluice.Backends() {
		d := checkBackend(ctx, b)
		works = works || d.Status == DiagnosisOK
		found = append(found, d)
	}
	if len(found) == 0 {
		return []Diagnosis{{"backends", DiagnosisFail, "there is none for this platform", ""}}
	}
	for i := range found {
		if works && found[i].Status == DiagnosisFail {
			found[i].Status = DiagnosisWarn
		}
	}
	return append(found, diagnoseChoice(sluice.Backends(), found))
}

// diagnoseChoice says which backend a sandbox gets that names none, by what was found
// out about each.
func diagnoseChoice(backends []sluice.Backend, found []Diagnosis) Diagnosis {
	d := Diagnosis{Check: "choice", Status: DiagnosisOK}
	var order []string
	chosen := ""
	for i, b := range backends {
		if b.ByNameOnly {
			continue
		}
		order = append(order, b.Name())
		if chosen == "" && found[i].Status == DiagnosisOK {
			chosen = b.Name()
		}
	}
	switch named := os.Getenv("SLUICE_BACKEND"); {
	case named != "" && named != "auto":
		d.Detail = fmt.Sprintf("%s without --backend, as SLUICE_BACKEND says", named)
	case chosen != "":
		d.Detail = fmt.Sprintf("%s without --backend: the first of %s that works", chosen, strings.Join(order, ", "))
	default:
		d.Status = DiagnosisWarn
		d.Detail = fmt.Sprintf("none without --backend: of %s none works, and less than a virtual machine is never taken unasked", strings.Join(order, ", "))
		d.Fix = "see above; or --backend namespace, whose guests share this host's kernel"
	}
	return d
}

// checkBackend asks a backend whether it works, which it finds out by booting a
// guest. One that needs no image also runs a command.
func checkBackend(ctx context.Context, b sluice.Backend) Diagnosis {
	d := Diagnosis{Check: "backend " + b.Name(), Status: DiagnosisFail}
	report := b.Probe(ctx)
	if !report.Usable {
		d.Detail, d.Fix = report.Reason, report.Fix
		return d
	}
	if !b.ByNameOnly {
		d.Status, d.Detail = DiagnosisOK, report.Reason
		return d
	}
	started := time.Now()
	sb, err := CreateSandbox(ctx, fmt.Sprintf("doctor-%08x", rand.Uint32()), WithBackend(b.Name()))
	if err != nil {
		d.Detail = err.Error()
		return d
	}
	defer sb.Close()
	out, err := sb.Exec(ctx, "/bin/sh", []string{"-c", "exit 42"})
	switch {
	case err != nil:
		d.Detail = err.Error()
		return d
	case out.ExitCode() != 42:
		d.Detail = fmt.Sprintf("a command's exit code is %d, want 42", out.ExitCode())
		return d
	}
	d.Status = DiagnosisOK
	d.Detail = fmt.Sprintf("ran a command in %v; %s; used only by name, since its guests share this host's kernel",
		time.Since(started).Round(time.Millisecond), report.Reason)
	return d
}
