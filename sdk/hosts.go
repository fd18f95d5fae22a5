package sdk

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/sluicenet/sluice/internal/sandbox"
	"github.com/sluicenet/sluice/policy"
)

// hostGateway is docker's word for the address of the host.
const hostGateway = "host-gateway"

// maxHosts bounds the addresses of WithAddHost: all travel in the guest's first
// message, and its programs read the file for every name.
const maxHosts = 1024

// WithAddHost adds a name to the guest's /etc/hosts, with IP addresses, or with
// the word host-gateway for this host; a later call for the same name adds
// addresses.
//
// Only programs that read the file know of it: sluice's resolver doesn't answer
// such names, and so rules about names don't take a flow to such an address for
// one to that name. Allow the address itself.
func WithAddHost(name string, addrs ...string) SandboxOption {
	return func(c *SandboxConfig) {
		c.AddHosts = merged(c.AddHosts, map[string][]string{name: slices.Concat(c.AddHosts[name], addrs)})
	}
}

// compileHosts reads names and addresses for the guest's /etc/hosts.
func (c *checker) compileHosts(hosts map[string][]string) []sandbox.Host {
	var out []sandbox.Host
	seen := make(map[string]bool)
	count := 0
	for _, key := range slices.Sorted(maps.Keys(hosts)) {
		path := "WithAddHost[" + strconv.Quote(key) + "]"
		name, err := policy.ParseName(key)
		host, ok := c.compileHost(path, name, hosts[key])
		switch {
		case err != nil:
			c.fail(ErrInvalidConfig, path, key, "no host name", "write letters, digits, hyphens and dots")
		case seen[name]:
			c.fail(ErrInvalidConfig, path, "", "is there twice, in other letters", "write it once")
		case name == "localhost", policy.IsHostAlias(name) && (!host.Gateway || len(host.Addrs) > 0):
			c.fail(ErrInvalidConfig, path, key, "has its meaning already", "choose another name")
		case len(hosts[key]) == 0:
			c.fail(ErrInvalidConfig, path, "", "has no address", "write one, or host-gateway for this host")
		case ok && !policy.IsHostAlias(name): // the guest knows an alias anyway
			out = append(out, host)
		}
		seen[name] = true
		count += len(hosts[key])
	}
	if count > maxHosts {
		c.fail(ErrInvalidConfig, "WithAddHost", "", "more than "+decimal(maxHosts)+" addresses", "drop some, or give a nameserver that knows them")
	}
	return out
}

// compileHost reads the addresses of a name, and reports whether they are right.
func (c *checker) compileHost(path, name string, addrs []string) (host sandbox.Host, ok bool) {
	host.Name, ok = name, true
	for i, text := range addrs {
		if text == hostGateway {
			host.Gateway = true
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			c.fail(ErrInvalidConfig, index(path, i), text, "no IP address", "write one, or host-gateway for this host")
			ok = false
			continue
		}
		host.Addrs = append(host.Addrs, addr.Unmap())
	}
	return host, ok
}
