package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Ports of the rows of published ports: on the host, and of the server in the
// guest.
const (
	publishedPort   = 5202
	guestServerPort = 5203
)

// publishingPeers returns the peers with a port published.
func publishingPeers(t *testing.T, all []peer, sluice string) []peer {
	t.Helper()
	starts := map[string]func(context.Context, int) (*guest, error){
		"sluice": func(ctx context.Context, mtu int) (*guest, error) {
			policy, err := policyFile(t, mtu)
			if err != nil {
				return nil, err
			}
			return oneCommand(ctx, sluice, "run", "--quiet", "--backend", "namespace", "--policy", policy,
				"--publish", fmt.Sprintf("127.0.0.1:%d:%d", publishedPort, guestServerPort), "--", "sh")
		},
		"slirp4netns": func(ctx context.Context, mtu int) (*guest, error) {
			socket := filepath.Join(t.TempDir(), "api")
			g, err := startSlirp(ctx, mtu, "--api-socket", socket)
			if err != nil {
				return nil, err
			}
			if err := slirpForward(socket); err != nil {
				return nil, errors.Join(err, g.close())
			}
			return g, nil
		},
		"pasta": func(ctx context.Context, mtu int) (*guest, error) {
			return oneCommand(ctx, "pasta", "--quiet", "--runas", "0", "--config-net", "--mtu", strconv.Itoa(mtu),
				"--tcp-ports", fmt.Sprintf("127.0.0.1/%d:%d", publishedPort, guestServerPort), "--", "sh")
		},
	}
	var publishing []peer
	for _, p := range all {
		if start := starts[p.name]; start != nil {
			p.start = start
		}
		publishing = append(publishing, p)
	}
	return publishing
}

// slirpForward asks slirp4netns to publish the port.
func slirpForward(socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, `{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":%d,"guest_port":%d}}`,
		publishedPort, guestServerPort)
	if err != nil {
		return err
	}
	var answer struct {
		Error json.RawMessage `json:"error"`
	}
	if err := json.NewDecoder(c).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("slirp4netns: publish: %s", answer.Error)
	}
	return nil
}

// published measures throughput by way of a published port.
func (b *bench) published(sluice string) {
	var rows []*row
	var all []transfer
	for _, x := range []transfer{{mtu: 1500, streams: 1}, {mtu: 1500, streams: 1, reverse: true}} {
		if name := "published port, " + x.direction(!x.reverse); b.pattern.MatchString(name) {
			all, rows = append(all, x), append(rows, b.newRow(name, "Gbit/s"))
		}
	}
	if len(all) == 0 {
		return
	}
	peers := b.peers
	defer func() { b.peers = peers }()
	b.peers = publishingPeers(b.t, peers, sluice)
	b.each("published port", 1500, func(g *guest) error {
		for i, x := range all {
			r, err := x.measurePublished(b.t.Context(), g, *duration)
			if err != nil {
				return err
			}
			rows[i].add(g.peer.name, r)
		}
		return nil
	})
}

// measurePublished runs iperf3's server in the guest, where it ends with the
// shell, and its client on the host.
func (x transfer) measurePublished(ctx context.Context, g *guest, d time.Duration) (result, error) {
	if _, _, err := g.Run(fmt.Sprintf("timeout %.0f iperf3 --server --one-off --port %d >/dev/null 2>&1 & server=$!", commandPatience.Seconds(), guestServerPort)); err != nil {
		return result{}, err
	}
	defer g.Run("kill $server; wait $server") // it may be through
	port := publishedPort
	if g.peer.name == "loopback" {
		port = guestServerPort
	}
	args := []string{"--json", "--client", "127.0.0.1", "--port", strconv.Itoa(port), "--time", fmt.Sprint(int(d.Seconds()))}
	if x.reverse {
		args = append(args, "--reverse")
	}
	before, err := cpuOf(g.pids())
	if err != nil {
		return result{}, err
	}
	var r result
	for deadline := time.Now().Add(commandPatience / 2); ; time.Sleep(50 * time.Millisecond) {
		out, cerr := exec.CommandContext(ctx, "iperf3", args...).Output()
		if r, err = parseIPerf(string(out)); err == nil || time.Now().After(deadline) {
			err = errors.Join(err, cerr)
			break
		}
		// The server isn't there yet.
	}
	after, cerr := cpuOf(g.pids())
	if cerr != nil {
		return result{}, cerr
	}
	r.peer = (after - before).Seconds()
	return r, err
}
