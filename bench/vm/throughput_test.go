//go:build linux

package vm

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/qemu"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
	"github.com/sluicenet/sluice/vnet/link"
)

// iperfPort is that of the server on the host's loopback.
const iperfPort = 5201

// A peer is who is at the other end of a guest's card.
type peer struct {
	name string
	mtu  int
	host string // how the guest calls the machine's loopback
	user bool   // QEMU's own network
}

var peers = []peer{
	{"user, MTU 1500", 1500, "10.0.2.2", true},
	{"sluice, MTU 1500", 1500, "172.16.0.1", false},
	{"sluice, MTU 65520", 65520, "172.16.0.1", false},
}

// A transfer is what one run of iperf3 has shown.
type transfer struct {
	rate float64 // Mbit/s that were received
	cpu  float64 // seconds for each GB: QEMU's, and of who is at the card's other end
}

// TestThroughput prints what iperf3 gets in each guest. All of them run from the
// beginning on, and take turns in each round: a slow second of the machine hits one
// figure of one of them, and the median leaves it out. The CPU time hardly depends on
// what else the machine does.
func TestThroughput(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	root := image(t, "iperf3")
	server := exec.CommandContext(t.Context(), netlab.Tool(t, "iperf3"), "--server", "--bind", "127.0.0.1", "--port", fmt.Sprint(iperfPort))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Wait() }) // killed by the context
	clients := make([]*guest.Client, len(peers))
	for i, p := range peers {
		clients[i] = start(t, p, root)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "iperf3, one stream, medians of %d rounds\tguest→host\tCPU s/GB\thost→guest\tCPU s/GB\t\n", *rounds)
	rates, costs := make([][2][]float64, len(peers)), make([][2][]float64, len(peers))
	for range *rounds {
		for direction := range 2 {
			for i, p := range peers {
				x := iperf(t, clients[i], p, direction == 1)
				rates[i][direction] = append(rates[i][direction], x.rate)
				costs[i][direction] = append(costs[i][direction], x.cpu)
			}
		}
	}
	for i, p := range peers {
		fmt.Fprintf(out, "%s\t", p.name)
		for direction := range 2 {
			rate, cost := median(rates[i][direction]), median(costs[i][direction])
			fmt.Fprintf(out, "%.0f Mbit/s, %.2f×\t%.2f\t", rate, rate/median(rates[0][direction]), cost)
		}
		fmt.Fprintln(out)
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}

// median returns the median.
func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// iperf runs iperf3 in a guest.
func iperf(t *testing.T, client *guest.Client, p peer, reverse bool) transfer {
	t.Helper()
	args := []string{"/bin/iperf3", "--json", "--client", p.host, "--port", fmt.Sprint(iperfPort), "--time", fmt.Sprint(int(duration.Seconds()))}
	if reverse {
		args = append(args, "--reverse")
	}
	before := cpuTime(t)
	out := run(t, client, args...)
	used := cpuTime(t) - before
	var report struct {
		Error string
		End   struct {
			Received struct {
				Bytes float64
				Bits  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &report); err != nil || report.Error != "" {
		t.Fatalf("iperf3 against %s: %v %s", p.name, err, out)
	}
	received := report.End.Received
	return transfer{rate: received.Bits / 1e6, cpu: used.Seconds() / (received.Bytes / 1e9)}
}

// cpuTime returns the CPU time of this process and of all that it has started, but
// iperf3. Guests that wait use next to nothing.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	all, err := netlab.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var total time.Duration
	for todo := []int{os.Getpid()}; len(todo) > 0; todo = todo[1:] {
		for _, p := range all {
			if p.Parent == todo[0] {
				todo = append(todo, p.PID)
			}
			if p.PID == todo[0] && p.Name != "iperf3" {
				total += p.CPU
			}
		}
	}
	return total
}

// start starts a guest of a peer's, with a network.
func start(t *testing.T, p peer, root string) *guest.Client {
	t.Helper()
	h := qemu.New(qemu.Config{Accelerators: []string{"tcg"}, Memory: t.TempDir()})
	pool, err := vnet.NewPool(netip.Prefix{}, netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pool.Block(0)
	cfg := hv.Config{Name: "bench", NIC: &hv.NIC{MTU: uint16(p.mtu), MAC: block.GuestMAC}, Disks: []hv.Disk{{Path: root, ReadOnly: true, Format: hv.Ext4}}}
	network := guest.Network{
		MTU: p.mtu, Default4: true,
		Addrs:      []netip.Prefix{netip.PrefixFrom(block.Guest4, block.Prefix4.Bits())},
		Gateways:   []netip.Addr{block.Gateway4},
		GatewayMAC: guest.HardwareAddr(block.GatewayMAC),
	}
	if p.user {
		h = qemu.New(qemu.Config{Accelerators: []string{"tcg"}, Memory: t.TempDir(), Program: withUserNetwork(t)})
		network.Addrs = []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")}
		network.Gateways = []netip.Addr{netip.MustParseAddr("10.0.2.2")}
		network.GatewayMAC = nil
	}
	vm, err := h.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	if !p.user {
		connect(t, vm, p.mtu, block)
	}
	client := guest.NewClient(vm.Agent())
	t.Cleanup(func() { client.Close() })
	if err := client.Boot(t.Context(), guest.Bootstrap{Hostname: "bench", Network: &network}); err != nil {
		t.Fatal(err)
	}
	return client
}

// withUserNetwork returns a program that is QEMU but for the card's other end,
// which it makes QEMU's own.
func withUserNetwork(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	script := `#!/bin/sh
i=$#
while [ $i -gt 0 ]; do
	arg=$1; shift; i=$((i-1))
	case $arg in stream,id=net*) arg=user,id=net ;; esac
	set -- "$@" "$arg"
done
exec ` + netlab.Tool(t, "qemu-system-x86_64") + ` "$@"
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// connect puts sluice's network behind a guest's card.
func connect(t *testing.T, vm hv.VM, mtu int, block vnet.Block) {
	t.Helper()
	config, err := policy.Preset("allow-all")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.New(config)
	if err != nil {
		t.Fatal(err)
	}
	host := &policy.Host{
		Gateways: []netip.Addr{block.Gateway4, block.Gateway6}, Blocks: []netip.Prefix{block.Prefix4, block.Prefix6},
	}
	file, format := vm.NIC()
	card, err := link.Open(file, format)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vnet.New(vnet.Config{Link: card, Block: block, MTU: mtu, Policy: rules, Host: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
}
