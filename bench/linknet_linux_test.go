package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/hv/namespace"
	agent "github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
	"github.com/sluicenet/sluice/vnet/link"
)

// linkedNetworks measures a network of ours over each link, with a guest of the
// kernel's.
func (b *bench) linkedNetworks() {
	for _, mtu := range []int{1500, 65520} {
		for _, toGuest := range []bool{false, true} {
			name := fmt.Sprintf("network, MTU %d, %s", mtu, directions[toGuest])
			if !b.pattern.MatchString(name) {
				continue
			}
			r := b.newRow(name, "Gbit/s")
			for range *rounds {
				for _, way := range []string{plain, datagram, stream} {
					x, err := b.throughNetwork(way, mtu, toGuest)
					if err != nil {
						b.t.Errorf("%s, %s: %v", name, way, err)
						continue
					}
					r.add(way, x)
				}
			}
		}
	}
}

// A plainLink has the network send frames of the MTU.
type plainLink struct{ link.Link }

func (plainLink) Plain() {}

// throughNetwork runs iperf3 in a guest whose card is carried over a link. The card
// is a TAP, whose frames a pump takes to the link, as a hypervisor does: so the two
// cores are shared by more than with a real one, and these figures compare with each
// other only. Of both CPU times of the row the first is this process's, pump and
// network.
func (b *bench) throughNetwork(way string, mtu int, toGuest bool) (result, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), commandPatience)
	defer cancel()
	pool, err := vnet.NewPool(netip.Prefix{}, netip.Prefix{})
	if err != nil {
		return result{}, err
	}
	block, _ := pool.Block(0)
	vm, err := namespace.New().Start(ctx, hv.Config{Name: "bench", NIC: &hv.NIC{MAC: block.GuestMAC, MTU: uint16(mtu)}})
	if err != nil {
		return result{}, err
	}
	defer vm.Close()
	network, stop, err := connect(vm, way, mtu, block)
	if err != nil {
		return result{}, err
	}
	defer stop()
	defer network.Close()
	client := agent.NewClient(vm.Agent())
	defer client.Close()
	if err := client.Boot(ctx, agent.Bootstrap{Hostname: "bench", Network: &agent.Network{
		MTU: mtu, Addrs: []netip.Prefix{netip.PrefixFrom(block.Guest4, block.Prefix4.Bits())},
		Gateways: []netip.Addr{block.Gateway4}, Default4: true, GatewayMAC: agent.HardwareAddr(block.GatewayMAC),
	}}); err != nil {
		return result{}, err
	}
	args := []string{"iperf3", "--json", "--client", block.Gateway4.String(), "--port", fmt.Sprint(iperfPort), "--time", fmt.Sprint(max(1, int(duration.Seconds())))}
	if toGuest {
		args = append(args, "--reverse")
	}
	before := ownCPU()
	out, err := output(ctx, client, args)
	if err != nil {
		return result{}, err
	}
	r, err := parseIPerf(out)
	r.peer = (ownCPU() - before).Seconds()
	return r, err
}

// connect makes the network at the other end of a guest's card. The caller closes
// it, and then calls stop.
func connect(vm hv.VM, way string, mtu int, block vnet.Block) (*vnet.Network, func(), error) {
	file, format := vm.NIC()
	card, err := link.Open(file, format)
	if err != nil {
		return nil, nil, err
	}
	format = link.Datagram
	if way == stream {
		format = link.Stream
	}
	ours, theirs, err := link.Pair(format)
	if err != nil {
		return nil, nil, errors.Join(err, card.Close())
	}
	outer, err := link.Open(theirs, format)
	if err != nil {
		return nil, nil, errors.Join(err, card.Close())
	}
	stop := pump(card, outer)
	inner, err := link.Config{KeepSegments: way == plain}.Open(ours, format)
	if err != nil {
		stop()
		return nil, nil, err
	}
	if way == plain {
		inner = plainLink{inner}
	}
	config, problems := policy.Spec{Policy: policy.PresetAllowAll}.Flatten()
	p, err := policy.New(config)
	if err = errors.Join(problems.Err(), err); err != nil {
		stop()
		return nil, nil, errors.Join(err, inner.Close())
	}
	network, err := vnet.New(vnet.Config{Link: inner, Block: block, MTU: mtu, Policy: p,
		Host: &policy.Host{Gateways: []netip.Addr{block.Gateway4, block.Gateway6}, Blocks: []netip.Prefix{block.Prefix4, block.Prefix6}}})
	if err != nil {
		stop()
		return nil, nil, err
	}
	return network, stop, nil
}

// pump carries frames between two links until the returned function is called.
func pump(a, b link.Link) func() {
	done := make(chan struct{}, 2)
	carry := func(from, to link.Link) {
		defer func() { done <- struct{}{} }()
		frames := make([]link.Frame, 64)
		for i := range frames {
			frames[i].Data = make([]byte, 0, link.MaxFrame)
		}
		for {
			n, err := from.ReadFrames(frames)
			if err != nil {
				return
			}
			if _, err := to.WriteFrames(frames[:n]); err != nil {
				return
			}
			for i := range frames[:n] {
				frames[i] = link.Frame{Data: frames[i].Data[:0]}
			}
		}
	}
	go carry(a, b)
	go carry(b, a)
	return func() {
		a.Close()
		b.Close()
		<-done
		<-done
	}
}

// output runs a command in a guest and returns what it writes.
func output(ctx context.Context, client *agent.Client, args []string) (string, error) {
	p, err := client.Start(ctx, agent.Command{Args: args, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		return "", err
	}
	defer p.Close()
	errs := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, p.Stderr())
		errs <- err
	}()
	out, err := io.ReadAll(p.Stdout())
	err = errors.Join(err, <-errs)
	if err != nil {
		return "", err
	}
	exit, err := p.Wait(ctx)
	if err == nil && exit.Status() != 0 {
		err = fmt.Errorf("%v ended %+v: %s", args, exit, out)
	}
	return string(out), err
}
