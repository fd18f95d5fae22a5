package holder

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// See holder.go.
func of(addr netip.AddrPort, udp bool) string {
	tables, state := []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"}, "0A" // TCP_LISTEN
	if udp {
		tables, state = []string{"/proc/self/net/udp", "/proc/self/net/udp6"}, "07" // TCP_CLOSE: not connected
	}
	for _, table := range tables {
		if inode, ok := boundInode(table, state, addr); ok {
			if who := inodeHolder(inode); who != "" {
				return who
			}
		}
	}
	return ""
}

// boundInode finds the socket in the given state that is bound to addr's port,
// on its address or on all (proc_pid_net(5)).
func boundInode(table, state string, addr netip.AddrPort) (inode string, ok bool) {
	f, err := os.Open(table)
	if err != nil {
		return "", false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		// sl local rem st tx:rx tr:when retrnsmt uid timeout inode
		fields := strings.Fields(s.Text())
		if len(fields) < 10 || fields[3] != state {
			continue
		}
		local, ok := parseProcAddr(fields[1])
		if ok && local.Port() == addr.Port() &&
			(local.Addr() == addr.Addr() || local.Addr().IsUnspecified() || addr.Addr().IsUnspecified()) {
			return fields[9], true
		}
	}
	return "", false
}

// parseProcAddr parses an address of /proc/net/tcp: 32-bit words in the host's
// byte order as hexadecimal, a colon, the port.
func parseProcAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(host)%8 != 0 {
		return netip.AddrPort{}, false
	}
	var b []byte
	for ; host != ""; host = host[8:] {
		w, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b = binary.NativeEndian.AppendUint32(b, uint32(w))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// inodeHolder names a process that has the socket open: its name and number.
func inodeHolder(inode string) string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "socket:["+inode+"]" {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has just ended
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), filepath.Base(dir))
	}
	return ""
}
