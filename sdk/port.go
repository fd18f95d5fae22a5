package sdk

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
)

// A PortBinding publishes a service of the guest on the host.
type PortBinding struct {
	// Bind is the host's address, a literal IP: 0.0.0.0 is all IPv4 addresses,
	// :: all IPv6 addresses. Empty means 127.0.0.1.
	Bind string `json:"bind,omitempty"`
	// HostPort is the port on the host; 0 takes a free one.
	HostPort uint16 `json:"host_port,omitempty"`
	// GuestPort is the service's port in the guest; it is needed.
	GuestPort uint16 `json:"guest_port"`
	// Protocol is tcp or udp; empty means tcp.
	Protocol PortProtocol `json:"protocol,omitempty"`
}

// A PortProtocol is the protocol of a published service.
type PortProtocol string

const (
	PortProtocolTCP PortProtocol = "tcp"
	PortProtocolUDP PortProtocol = "udp"
)

// A portKey is what only one service can have on the host.
type portKey struct {
	addr     netip.AddrPort
	protocol PortProtocol
}

func (k portKey) String() string { return fmt.Sprintf("%v/%s", k.addr, k.protocol) }

// localhost is where a service without Bind is published.
var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// key returns what the binding takes on the host; it reports false if it takes
// nothing in particular (any free port), or is invalid.
func (b PortBinding) key() (portKey, bool) {
	addr := localhost
	if b.Bind != "" {
		var err error
		if addr, err = netip.ParseAddr(b.Bind); err != nil {
			return portKey{}, false
		}
	}
	protocol := b.Protocol
	if protocol == "" {
		protocol = PortProtocolTCP
	}
	return portKey{netip.AddrPortFrom(addr.Unmap(), b.HostPort), protocol}, b.HostPort != 0
}

// A publication is a binding and where the configuration asks for it.
type publication struct {
	field string // for example PortBindings[0]
	PortBinding
}

// publications returns all ports that the configuration publishes, in a fixed
// order, those of maps by host port.
func (c *SandboxConfig) publications() []publication {
	var all []publication
	fromMap := func(field string, ports map[uint16]uint16, protocol PortProtocol) {
		for _, host := range slices.Sorted(maps.Keys(ports)) {
			all = append(all, publication{
				fmt.Sprintf("%s[%d]", field, host),
				PortBinding{HostPort: host, GuestPort: ports[host], Protocol: protocol},
			})
		}
	}
	fromList := func(field string, bindings []PortBinding) {
		for i, b := range bindings {
			all = append(all, publication{fmt.Sprintf("%s[%d]", field, i), b})
		}
	}
	fromMap("WithPorts", c.Ports, PortProtocolTCP)
	fromMap("WithPortsUDP", c.PortsUDP, PortProtocolUDP)
	fromList("WithPortBindings", c.PortBindings)
	if n := c.Network; n != nil {
		fromMap("Ports", n.Ports, PortProtocolTCP)
		fromList("PortBindings", n.PortBindings)
	}
	return all
}

// compilePorts returns what to publish, each service once. It reports what is
// wrong with single publications, and which of them contradict each other.
func (c *checker) compilePorts(cfg *SandboxConfig) []vnet.Binding {
	var bindings []vnet.Binding
	seen := make(map[portKey]publication)
	for _, p := range cfg.publications() {
		if !c.checkPort(p) {
			continue
		}
		key, fixed := p.key()
		other, taken := seen[key]
		switch {
		case !fixed || !taken:
			seen[key] = p
			protocol := policy.TCP
			if key.protocol == PortProtocolUDP {
				protocol = policy.UDP
			}
			bindings = append(bindings, vnet.Binding{Protocol: protocol, Host: key.addr, GuestPort: p.GuestPort})
		case other.GuestPort != p.GuestPort:
			c.fail(ErrInvalidConfig, p.field, key.String(),
				fmt.Sprintf("is published for guest port %d here and %d by %s", p.GuestPort, other.GuestPort, other.field), "drop one of them")
		}
	}
	return bindings
}

// checkPort reports what is wrong with one publication, and whether it is sound.
func (c *checker) checkPort(p publication) bool {
	before := len(c.problems)
	if p.GuestPort == 0 {
		c.fail(ErrInvalidConfig, p.field+".GuestPort", "0", "no port", "write the service's port, 1 to 65535")
	}
	if p.Bind != "" {
		if a, err := netip.ParseAddr(p.Bind); err != nil || a.Zone() != "" {
			c.fail(ErrInvalidConfig, p.field+".Bind", p.Bind, "no IP address", "write one such as 127.0.0.1, 0.0.0.0 or ::")
		}
	}
	switch p.Protocol {
	case "", PortProtocolTCP, PortProtocolUDP:
	default:
		c.fail(ErrInvalidConfig, p.field+".Protocol", string(p.Protocol), "no such protocol", "write tcp or udp")
	}
	return len(c.problems) == before
}
