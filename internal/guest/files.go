package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
)

// The files that tell a guest's programs its name and those of others.
const (
	resolvConf   = "/etc/resolv.conf"
	hostsFile    = "/etc/hosts"
	hostnameFile = "/etc/hostname"
)

// writeFiles writes these files for a guest of that name and network, which may be
// nil, below root ("" in a guest). Without a name, hostnameFile stays as it is.
func writeFiles(root, hostname string, n *Network) error {
	if n == nil {
		n = &Network{}
	}
	hosts, err := hostsText(hostname, n)
	if err != nil {
		return err
	}
	if err := replaceFile(root+hostsFile, hosts); err != nil {
		return err
	}
	if hostname != "" {
		if err := replaceFile(root+hostnameFile, hostname+"\n"); err != nil {
			return err
		}
	}
	return replaceFile(root+resolvConf, resolvText(n.Nameservers))
}

// resolvText returns /etc/resolv.conf. Without a nameserver it is one comment:
// an empty file would send the C library to 127.0.0.1.
func resolvText(servers []netip.Addr) string {
	if len(servers) == 0 {
		return "# no nameserver: this guest has no network\n"
	}
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return b.String()
}

// hostsText returns /etc/hosts: loopback, the guest itself, the entries.
func hostsText(hostname string, n *Network) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	// The guest's own name first, as a host does: programs look it up.
	entries := n.Hosts
	if hostname != "" {
		self := HostEntry{Addr: netip.AddrFrom4([4]byte{127, 0, 1, 1}), Names: []string{hostname}}
		if len(n.Addrs) > 0 {
			self.Addr = n.Addrs[0].Addr()
		}
		entries = append([]HostEntry{self}, entries...)
	}
	for _, e := range entries {
		line := strings.Join(e.Names, " ")
		if !e.Addr.IsValid() || len(strings.Fields(line)) != len(e.Names) || strings.ContainsRune(line, '#') {
			return "", fmt.Errorf("write %s: entry %s %q is not an address and names", hostsFile, e.Addr, e.Names)
		}
		fmt.Fprintf(&b, "%s\t%s\n", e.Addr, line)
	}
	return b.String(), nil
}

// replaceFile makes path a file with that text. A file is written in place,
// since it may be a mount of its own, which can't be renamed over; a symbolic
// link, as systemd-resolved leaves one, gives way to a file, since what it
// points to is another's or not there.
func replaceFile(path, text string) error {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	err := os.WriteFile(path, []byte(text), 0o644)
	if errors.Is(err, fs.ErrNotExist) { // an image without /etc
		if err := os.Mkdir(path[:strings.LastIndexByte(path, '/')], 0o755); err != nil {
			return err
		}
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	return err
}
