package hvtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/netlab"
	"github.com/sluicenet/sluice/vnet/link"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if stacks := netlab.Leaked(5 * time.Second); code == 0 && stacks != "" {
		fmt.Fprintf(os.Stderr, "goroutines leaked by the tests:\n\n%s\n", stacks)
		code = 1
	}
	os.Exit(code)
}

func TestFakeDatagram(t *testing.T) {
	t.Parallel()
	Run(t, &Fake{})
}

func TestFakeStream(t *testing.T) {
	t.Parallel()
	Run(t, &Fake{Format: link.Stream})
}

func TestFakeFailsAsTold(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	if _, err := (&Fake{StartError: boom}).Start(t.Context(), hv.Config{}); err != boom {
		t.Errorf("Start = %v; want boom", err)
	}
	if got := (&Fake{Report: hv.Report{Reason: "no"}}).Probe(t.Context()); got.Usable || got.Reason != "no" {
		t.Errorf("Probe = %+v; want what it was told", got)
	}
	vm, err := (&Fake{BootError: boom}).Start(t.Context(), hv.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	client := guest.NewClient(vm.Agent())
	defer client.Close()
	var remote *guest.RemoteError
	if err := client.Boot(t.Context(), guest.Bootstrap{}); !errors.As(err, &remote) || remote.Message != "boom" {
		t.Errorf("Boot = %v; want boom", err)
	}
}

func TestFakeRunsPrograms(t *testing.T) {
	t.Parallel()
	fake := &Fake{Programs: map[string]Program{
		"answer": func(_ context.Context, p *Process) guest.Exit { return guest.Exit{Code: len(p.Args) + len(p.Env)} },
	}}
	vm, client := boot(t, fake, hv.Config{}, nil)
	exit, err := run(t, client, guest.Command{Args: []string{"answer", "a", "b"}, Env: []string{"C=d"}})
	if err != nil || exit.Code != 4 {
		t.Errorf("ended %+v, %v; want code 4", exit, err)
	}
	guests := fake.Guests()
	if len(guests) != 1 || guests[0] != vm || guests[0].Bootstrap().Hostname != "hvtest" || guests[0].Config().Name != "hvtest" {
		t.Errorf("Guests() = %v; want the one that was booted", guests)
	}
}
