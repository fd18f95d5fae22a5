package main

import (
	"fmt"
	"strconv"
	"strings"

	m "github.com/sluicenet/sluice/sdk"
)

// remedy returns the flags that would allow what was denied: only a default
// leaves it to them.
func (w *watcher) remedy(e m.Event) string {
	if e.Verdict == nil || e.Verdict.Source != "default egress" {
		return ""
	}
	allow, named := noticeOf(e).target, ""
	switch {
	case e.DNS != nil:
		named = e.DNS.Name
	case e.Flow.Dst.Group == "host":
		allow = "host"
		if e.Flow.Dst.Port != 0 {
			allow += ":" + strconv.Itoa(int(e.Flow.Dst.Port))
		}
	default:
		named = e.Flow.Dst.Name
	}
	if named != "" && !pasteable(named) {
		return ""
	}
	if w.implicit {
		return "--network public-only --allow " + allow
	}
	return "--allow " + allow
}

// pasteable reports whether a flag may be suggested for a name that the guest chose:
// who reads the suggestion pastes it into a shell. So there is nothing in it that a
// shell, a list or a pattern gives a meaning; and it has two labels, since public is
// a group, which a guest may look up as a name.
func pasteable(name string) bool {
	return strings.Contains(strings.Trim(name, "."), ".") && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "-") &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
		})
}

// fixInFlags puts what would help a TLS connection to name, which the proxy says in
// the SDK's words, into those of the command line and of the policy file.
func fixInFlags(fix, name string) string {
	if pasteable(name) {
		fix = strings.ReplaceAll(fix, fmt.Sprintf("set Bypass: [%q]", name), "add --tls-bypass "+name)
	}
	return strings.NewReplacer(
		"Bypass: ", "tls.bypass of a --policy file: ",
		"UpstreamCACerts", "tls.upstream_ca_certs of a --policy file",
		"ScopedVerifyUpstream", "tls.scoped_verify_upstream",
	).Replace(fix)
}
