package sandbox

import (
	"fmt"

	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/vnet"
)

const (
	// reservedFiles are descriptors that are not for flows: the guest's card,
	// sockets to nameservers, listeners, control connections, the runtime's
	// own.
	reservedFiles = 128
	// The defaults of MaxConnections and Limits.UDPSessions. Each flow and each
	// session is a descriptor.
	defaultTCPFlows    = 4096
	defaultUDPSessions = 1024
)

// fitFiles shares out the descriptors that this process may have between TCP
// flows and UDP sockets, 3 to 1 where nobody asked for a number. A number that
// was asked for is kept, and an error if it doesn't fit: running out of
// descriptors must never look like a denial. files is the soft limit, which the
// Go runtime raises to the hard one as it starts.
//
// The flows of a Limits are -1 for none, 0 for the default.
func fitFiles(l vnet.Limits, files uint64) (vnet.Limits, []string, error) {
	room := 0
	if files > reservedFiles {
		room = int(min(files-reservedFiles, 1<<30))
	}
	tcp, udp := l.TCPFlows, l.UDPSessions
	tcpRoom, udpRoom := room-room/4, room/4
	switch {
	case tcp != 0 && udp != 0:
		tcpRoom, udpRoom = room-max(udp, 0), room-max(tcp, 0)
	case tcp != 0:
		udpRoom = room - max(tcp, 0)
	case udp != 0:
		tcpRoom = room - max(udp, 0)
	}
	if tcp > tcpRoom {
		return l, nil, tooManyFiles("MaxConnections", tcp, tcpRoom, files)
	}
	if udp > udpRoom {
		return l, nil, tooManyFiles("Limits.UDPSessions", udp, udpRoom, files)
	}
	var warnings []string
	fit := func(field string, v *int, def, room int) {
		if *v != 0 {
			return
		}
		*v = def
		if room < def {
			*v = room
			warnings = append(warnings, fmt.Sprintf("%s is %d instead of %d: this process may open only %d files (raise it with ulimit -n)", field, room, def, files))
		}
		if *v == 0 {
			*v = -1
		}
	}
	fit("MaxConnections", &l.TCPFlows, defaultTCPFlows, tcpRoom)
	fit("Limits.UDPSessions", &l.UDPSessions, defaultUDPSessions, udpRoom)
	return l, warnings, nil
}

func tooManyFiles(field string, v, room int, files uint64) error {
	return &control.Failure{
		Kind:    control.KindArgument,
		Message: fmt.Sprintf("%s: \"%d\": does not fit: this process may open %d files, of which %d are left for it", field, v, files, max(room, 0)),
		Hint:    "write a smaller number, or raise the limit with ulimit -n",
	}
}
