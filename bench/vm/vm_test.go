//go:build linux

package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/qemu"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/image/disk"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
	"github.com/sluicenet/sluice/vnet/link"
)

var (
	table    = flag.Bool("table", false, "measure and print the tables; without it there is nothing to test")
	rounds   = flag.Int("rounds", 5, "rounds, of which each row shows the median")
	duration = flag.Duration("duration", 2*time.Second, "of one throughput measurement")
)

func TestMain(m *testing.M) {
	if os.Args[0] == qemu.Role {
		qemu.Main() // doesn't return
	}
	netlab.Main(m)
}

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

// TestThroughput prints what iperf3 gets in each guest.
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
	results := make(map[string][]float64)
	for range *rounds {
		for _, p := range peers {
			client := start(t, p, root)
			for _, direction := range []string{"guest→host", "host→guest"} {
				key := p.name + ", " + direction
				results[key] = append(results[key], iperf(t, client, p, direction == "host→guest"))
			}
			client.Close()
		}
	}
	fmt.Printf("iperf3, one stream, Mbit/s, medians of %d alternating rounds\n", *rounds)
	for _, p := range peers {
		fmt.Printf("%-20s guest→host %6.0f  host→guest %6.0f\n", p.name, median(results[p.name+", guest→host"]), median(results[p.name+", host→guest"]))
	}
}

// median returns the median.
func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// iperf runs iperf3 in a guest and returns what was received, in Mbit/s.
func iperf(t *testing.T, client *guest.Client, p peer, reverse bool) float64 {
	t.Helper()
	args := []string{"/bin/iperf3", "--json", "--client", p.host, "--port", fmt.Sprint(iperfPort), "--time", fmt.Sprint(int(duration.Seconds()))}
	if reverse {
		args = append(args, "--reverse")
	}
	out := run(t, client, args...)
	var report struct {
		Error string
		End   struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if err := json.Unmarshal(out, &report); err != nil || report.Error != "" {
		t.Fatalf("iperf3 against %s: %v %s", p.name, err, out)
	}
	return report.End.Received.Bits / 1e6
}

// run runs a command in a guest and returns what it printed.
func run(t *testing.T, client *guest.Client, args ...string) []byte {
	t.Helper()
	p, err := client.Start(t.Context(), guest.Command{Args: args, Env: []string{"PATH=/bin", "HOME=/"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(os.Stderr, p.Stderr())
	}()
	out, err := io.ReadAll(p.Stdout())
	<-drained
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out
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

// image returns a disk with busybox, and programs of the host's with the libraries
// that they need.
func image(t *testing.T, programs ...string) string {
	t.Helper()
	files := map[string]string{"bin/busybox": netlab.Tool(t, "busybox")}
	for _, program := range programs {
		path := netlab.Tool(t, program)
		files["bin/"+program] = path
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		for field := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(field, "/") {
				files[field[1:]] = field
			}
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, path := range files {
		text, err := os.ReadFile(path)
		if err == nil {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(text))})
		}
		if err == nil {
			_, err = w.Write(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o777})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.FromTar(&b, f); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestStart prints how long a guest takes to its first command, phase by phase, and
// what it takes of the host's memory.
func TestStart(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	root := image(t)
	phases := make(map[string][]float64)
	var order []string
	note := func(phase string, d time.Duration) {
		if !slices.Contains(order, phase) {
			order = append(order, phase)
		}
		phases[phase] = append(phases[phase], d.Seconds()*1000)
	}
	for range *rounds {
		ctx, cancel := context.WithCancel(t.Context())
		h := qemu.New(qemu.Config{Accelerators: []string{"tcg"}, Memory: t.TempDir()})
		begun := time.Now()
		vm, err := h.Start(ctx, hv.Config{
			Name: "bench", NIC: &hv.NIC{}, Disks: []hv.Disk{{Path: root, ReadOnly: true, Format: hv.Ext4}},
			Logger: slog.New(phaseHandler{note: note}),
		})
		if err != nil {
			t.Fatal(err)
		}
		ready := time.Now()
		client := guest.NewClient(vm.Agent())
		if err := client.Boot(ctx, guest.Bootstrap{Hostname: "bench"}); err != nil {
			t.Fatal(err)
		}
		booted := time.Now()
		run(t, client, "/bin/busybox", "true")
		note("boot message", booted.Sub(ready))
		note("first command", time.Since(booted))
		note("all", time.Since(begun))
		ended := time.Now()
		if err := client.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		note("end", time.Since(ended))
		client.Close()
		vm.Close()
		cancel()
	}
	fmt.Printf("a guest's start, ms, medians of %d\n", *rounds)
	for _, phase := range order {
		fmt.Printf("%-14s %6.0f\n", phase, median(phases[phase]))
	}
}

// A phaseHandler is a log's handler that notes the phases that the backend tells.
type phaseHandler struct {
	note func(phase string, d time.Duration)
}

func (h phaseHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h phaseHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h phaseHandler) WithGroup(string) slog.Handler            { return h }

// Handle notes a record's durations.
func (h phaseHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindDuration {
			h.note(a.Key, a.Value.Duration())
		}
		return true
	})
	return nil
}
