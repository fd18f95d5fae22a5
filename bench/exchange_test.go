package bench

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// An exchange is a row of many small ones: the program in ./exchange counts them
// in the guest.
type exchange struct {
	name string
	args string // of the program, behind which come the address and the duration
	port int    // of the server on the host's loopback
}

// exchanges returns the rows.
func exchanges() []exchange {
	return []exchange{
		{"connect+exchange+close, 1 at a time", connectArgs + "-parallel 1", echoPort},
		{"connect+exchange+close, 32 at a time", connectArgs + "-parallel 32", echoPort},
		{"request-response", "request", echoPort},
		{"UDP echo, 64 bytes, 64 in flight", "datagram -size 64 -flight 64", echoPort},
		{"UDP echo, 1400 bytes, 64 in flight", "datagram -size 1400 -flight 64", echoPort},
	}
}

// connectArgs spread connections over all ports of the echo server.
var connectArgs = fmt.Sprintf("connect -ports %d ", echoPorts)

// measure runs the program in the guest; it prints how many a second.
func (x exchange) measure(g *guest, program, host string, d time.Duration) (result, error) {
	before, err := cpuOf(g.pids())
	if err != nil {
		return result{}, err
	}
	out, err := g.run(fmt.Sprintf("%s %s -duration %s %s:%d", program, x.args, d, host, x.port))
	if err != nil {
		return result{}, err
	}
	after, err := cpuOf(g.pids())
	if err != nil {
		return result{}, err
	}
	perSecond, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return result{}, fmt.Errorf("read the program's count: %w", err)
	}
	return result{value: perSecond, peer: (after - before).Seconds() / d.Seconds() / perSecond * 1e6}, nil
}
