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
	// DefaultTCPFlows and DefaultUDPSessions are the defaults of MaxConnections
	// and Limits.UDPSessions. Each flow and each session is a descriptor.
	DefaultTCPFlows    = 4096
	DefaultUDPSessions = 1024
)

// DefaultLimits returns how many TCP flows and UDP sockets a sandbox of this
// user may have where its configuration doesn't say, and the limit of open files
// that they come from.
func DefaultLimits() (tcpFlows, udpSessions int, files uint64, err error) {
	if files, err = openFiles(); err != nil {
		return 0, 0, 0, err
	}
	l, _, err := fitFiles(vnet.Limits{}, files)
	return max(l.TCPFlows, 0), max(l.UDPSessions, 0), files, err
}

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
	fit("MaxConnections", &l.TCPFlows, DefaultTCPFlows, tcpRoom)
	fit("Limits.UDPSessions", &l.UDPSessions, DefaultUDPSessions, udpRoom)
	return l, warnings, nil
}

func tooManyFiles(field string, v, room int, files uint64) error {
	return &control.Failure{
		Kind:    control.KindArgument,
		Message: fmt.Sprintf("%s: \"%d\": does not fit: this process may open %d files, of which %d are left for it", field, v, files, max(room, 0)),
		Hint:    "write a smaller number, or raise the limit with ulimit -n",
	}
}
