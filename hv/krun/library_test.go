package krun

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestCandidates(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		env   map[string]string
		first string
		only  bool
	}{
		{nil, "libkrun.so.1", false},
		{map[string]string{"SLUICE_LIBKRUN": "/opt/k.so"}, "/opt/k.so", true},
		{map[string]string{"SLUICE_LIBKRUN": "/opt/k.so", "LIBKRUN_PATH": "/x"}, "/opt/k.so", true},
		{map[string]string{"SLUICE_LIBKRUN": "./k.so"}, here + "/k.so", true},
		{map[string]string{"SLUICE_LIBKRUN": "k.so.1"}, "k.so.1", true},
		{map[string]string{"LIBKRUN_PATH": "."}, here + "/libkrun.so.1", false},
		{map[string]string{"LIBKRUN_PATH": "/opt/lib"}, "/opt/lib/libkrun.so.1", false},
		{map[string]string{"LIBKRUN_PATH": "/opt/lib/libkrun.so.1.18.0"}, "/opt/lib/libkrun.so.1.18.0", false},
	} {
		got := candidates(func(name string) string { return row.env[name] })
		if got[0] != row.first || (len(got) == 1) != row.only {
			t.Errorf("%v: %q; want %s first, alone %t", row.env, got, row.first, row.only)
		}
	}
}

func TestExamine(t *testing.T) {
	t.Parallel()
	full := offer{Path: "/l", ReadOnly: true, Disks: true, Kernel: true, Port: true, NoCard: true}
	but := func(change func(*offer)) offer { o := full; change(&o); return o }
	for _, row := range []struct {
		name    string
		present []string
		results map[string]int32
		want    offer
		err     string // what the error says; "" for none
	}{
		{name: "1.18", present: everything, want: full},
		{name: "1.15", present: older, want: offer{Path: "/l", Disks: true, Kernel: true}},
		{name: "2.0", present: []string{"krun_vmm_builder_new", "krun_init_log"}, err: "is libkrun 2"},
		{name: "nothing", err: "no krun_create_ctx"},
		{name: "no network function", present: without("krun_add_net_unixstream"), err: "no krun_add_net_unixstream"},
		{name: "no network", present: everything, results: map[string]int32{"krun_has_feature": 0}, err: "without network devices"},
		{name: "network unknown", present: everything, results: map[string]int32{"krun_has_feature": -22}, err: "without network devices"},
		{name: "no directories", present: without("krun_set_root", "krun_add_virtiofs3"), err: "can't give a guest a directory"},
		{name: "nothing to tell process 1", present: without("krun_set_exec"), err: "can't be told"},
		{name: "no set_root", present: without("krun_set_root"), want: full},
		{name: "no virtiofs3", present: without("krun_add_virtiofs3"), want: but(func(o *offer) { o.ReadOnly = false })},
		{name: "no disks", present: without("krun_add_disk"), want: but(func(o *offer) { o.Disks = false })},
		{name: "no kernel", present: without("krun_set_kernel"), want: but(func(o *offer) { o.Kernel = false })},
		{name: "no multiport", present: without("krun_add_virtio_console_multiport"), want: but(func(o *offer) { o.Port = false })},
		{name: "no tty", present: without("krun_add_console_port_tty"), want: but(func(o *offer) { o.Port = false })},
		{name: "no port", present: without("krun_add_console_port_inout"), want: but(func(o *offer) { o.Port = false })},
		{name: "console stays", present: without("krun_disable_implicit_console"), want: but(func(o *offer) { o.Port = false })},
		{name: "vsock stays", present: without("krun_disable_implicit_vsock"), want: but(func(o *offer) { o.NoCard = false })},
		{name: "a vsock that can only be switched off", present: without("krun_add_console_port_tty", "krun_add_vsock"), err: "no way to the agent"},
		{name: "no way to the agent", present: without("krun_add_console_port_tty", "krun_add_vsock_port"), err: "no way to the agent"},
	} {
		r := newRecorder(row.present)
		for name, result := range row.results {
			r.results[name] = result
		}
		got, err := examine(r, "/l")
		switch {
		case row.err == "" && (err != nil || got != row.want):
			t.Errorf("%s: %+v, %v; want %+v", row.name, got, err, row.want)
		case row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err) || !errors.Is(err, errors.ErrUnsupported)):
			t.Errorf("%s: %v; want an errors.ErrUnsupported that says %q", row.name, err, row.err)
		}
		var library *libraryError
		if errors.As(err, &library) && library.fix == "" {
			t.Errorf("%s: %v has no fix", row.name, err)
		}
	}
}

// Disks are off where the library says so itself.
func TestExamineAsksForDisks(t *testing.T) {
	t.Parallel()
	r := &noDisks{newRecorder(everything)}
	if o, err := examine(r, "/l"); err != nil || o.Disks {
		t.Errorf("%+v, %v; want no disks", o, err)
	}
}

// A noDisks is a library that was built without BLK.
type noDisks struct{ *recorder }

func (n *noDisks) hasFeature(feature uint64) int32 {
	if feature == featureDisk {
		return 0
	}
	return 1
}

// spec18 is a guest with everything for a library with everything.
func spec18() spec {
	return spec{
		CPUs: 2, MemoryMiB: 512, Dir: "/d", Root: "/r", Disks: []disk{{"/a", true}, {"/b", false}},
		Words: []string{"init=/i", "sluice.root=virtiofs"}, Card: true, MAC: [6]byte{2, 1, 1, 1, 1, 1}, LogLevel: logWarn,
	}
}

func TestConfigureOrder(t *testing.T) {
	t.Parallel()
	r := newRecorder(everything)
	ctx, err := configure(r, spec18())
	if err != nil || ctx != 5 {
		t.Fatalf("%d, %v", ctx, err)
	}
	want := []string{
		"krun_init_log 2 2 2 1",
		"krun_get_max_vcpus",
		"krun_create_ctx",
		"krun_disable_implicit_vsock 5",
		"krun_disable_implicit_console 5",
		"krun_disable_implicit_init 5",
		"krun_set_vm_config 5 2 512",
		"krun_add_virtiofs3 5 /dev/root /d/boot 0 true",
		"krun_add_virtiofs3 5 root /r 0 true",
		"krun_add_disk 5 disk0 /a true",
		"krun_add_disk 5 disk1 /b false",
		"krun_add_net_unixstream 5 7 [2 1 1 1 1 1] 0 0",
		"krun_set_exec 5 /sluice:machine [] [KRUN_INIT_PID1=1 init=/i sluice.root=virtiofs]",
		"krun_add_virtio_console_multiport 5",
		"krun_add_console_port_tty 5 3 console 6",
		"krun_add_console_port_inout 5 3 sluice.agent 4 4",
		"krun_add_console_port_inout 5 3 sluice.status 5 5",
	}
	if !slices.Equal(r.calls, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(r.calls, "\n"), strings.Join(want, "\n"))
	}
}

func TestConfigureByWhatThereIs(t *testing.T) {
	t.Parallel()
	vsock := spec18()
	vsock.Root, vsock.Vsock = "", []string{"/v/agent", "/v/status"}
	kernel := spec18()
	kernel.Kernel, kernel.KernelFormat = "/k", kernelELF
	booted := kernel
	booted.Initrd = "/i"
	for _, row := range []struct {
		name    string
		present []string
		spec    spec
		calls   []string // that must be among the calls
		never   []string // that must not
	}{
		{"1.15", older, vsock, []string{"krun_set_root 5 /d/boot", "krun_add_vsock_port 5 1024 /v/agent", "krun_add_vsock_port 5 1025 /v/status"}, []string{"krun_add_vsock"}},
		{"vsock made explicit", everything, vsock, []string{"krun_disable_implicit_vsock 5", "krun_add_vsock 5 0"}, []string{"krun_add_console_port_tty"}},
		{"an older log", without("krun_init_log"), spec18(), []string{"krun_set_log_level 2"}, nil},
		{"no log", without("krun_init_log", "krun_set_log_level"), spec18(), nil, []string{"krun_init_log"}},
		{"words are appended", append(without("krun_set_exec"), "krun_append_kernel_cmdline"), spec18(), []string{"krun_append_kernel_cmdline 5 init=/i", "krun_append_kernel_cmdline 5 sluice.root=virtiofs"}, nil},
		{"a kernel", everything, kernel, []string{"krun_set_kernel 5 /k 1  reboot=k panic=-1 panic_print=0 nomodule console=hvc0 quiet root=/dev/root rootfstype=virtiofs ro init=/i sluice.root=virtiofs"}, []string{"krun_set_exec"}},
		{"a kernel and an initrd", everything, booted, []string{"krun_set_kernel 5 /k 1 /i reboot=k panic=-1 panic_print=0 nomodule console=hvc0 quiet init=/i sluice.root=virtiofs"}, nil},
	} {
		r := newRecorder(row.present)
		if _, err := configure(r, row.spec); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		for _, call := range row.calls {
			if !slices.Contains(r.calls, call) {
				t.Errorf("%s: no call %q among\n%s", row.name, call, strings.Join(r.calls, "\n"))
			}
		}
		for _, name := range append(row.never, "MISSING") {
			if slices.Contains(r.called(), name) {
				t.Errorf("%s: %s was called", row.name, name)
			}
		}
	}
}

// TestConfigureFailsAtEveryCall lets each function fail in turn: the error names it
// and its number, and nothing is called after it.
func TestConfigureFailsAtEveryCall(t *testing.T) {
	t.Parallel()
	good := newRecorder(everything)
	if _, err := configure(good, spec18()); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, name := range slices.Compact(good.called()) {
		if name == "krun_get_max_vcpus" {
			continue // what it doesn't know doesn't matter
		}
		r := newRecorder(everything).failing(name, syscall.ENOMEM)
		_, err := configure(r, spec18())
		if err == nil || !strings.Contains(err.Error(), name) || !errors.Is(err, syscall.ENOMEM) {
			t.Errorf("%s fails: %v", name, err)
		}
		if last := r.called()[len(r.calls)-1]; last != name {
			t.Errorf("%s fails, and %s is called", name, last)
		}
		failed++
	}
	if failed < 12 {
		t.Errorf("only %d functions failed", failed)
	}
}

// What isn't supported any more needs no switching off; the implicit vsock does.
func TestSwitchOff(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"krun_disable_implicit_init": true, "krun_disable_implicit_console": true, "krun_disable_implicit_vsock": false} {
		r := newRecorder(everything).failing(name, syscall.ENOTSUP)
		if err := switchOff(r, 0); (err == nil) != ok {
			t.Errorf("%s says ENOTSUP: %v", name, err)
		}
	}
}

func TestConfigureBoundsProcessors(t *testing.T) {
	t.Parallel()
	s := spec18()
	s.CPUs = 9
	if _, err := configure(newRecorder(everything), s); err == nil || !strings.Contains(err.Error(), "KVM's 8") {
		t.Errorf("9 processors of 8: %v", err)
	}
	if _, err := configure(newRecorder(everything).failing("krun_get_max_vcpus", syscall.EINVAL), s); err != nil {
		t.Errorf("9 processors of who knows how many: %v", err)
	}
}

func TestOfferFits(t *testing.T) {
	t.Parallel()
	full := offer{Path: "/l", ReadOnly: true, Disks: true, Kernel: true, Port: true, NoCard: true}
	card := spec{Card: true}
	for _, row := range []struct {
		name string
		o    func(*offer)
		s    func(*spec)
		err  string
	}{
		{"all", func(*offer) {}, func(s *spec) { s.Root, s.Disks, s.Kernel, s.Card = "/r", []disk{{}}, "/k", false }, ""},
		{"a writable root", func(o *offer) { o.ReadOnly = false }, func(s *spec) { s.Root = "/r" }, "only for the guest to write to"},
		{"a disk all the same", func(o *offer) { o.ReadOnly = false }, func(s *spec) { s.Disks = []disk{{}} }, ""},
		{"no disks", func(o *offer) { o.Disks = false }, func(s *spec) { s.Disks = []disk{{}} }, "without disks"},
		{"no kernel", func(o *offer) { o.Kernel = false }, func(s *spec) { s.Kernel = "/k" }, "can't be given a kernel"},
		{"TSI", func(o *offer) { o.NoCard = false }, func(s *spec) { s.Card = false }, "the host's network"},
		{"TSI, and a card", func(o *offer) { o.NoCard = false }, func(*spec) {}, ""},
	} {
		o, s := full, card
		row.o(&o)
		row.s(&s)
		err := o.fits(s)
		if row.err == "" && err != nil || row.err != "" && (err == nil || !strings.Contains(err.Error(), row.err) || !errors.Is(err, errors.ErrUnsupported)) {
			t.Errorf("%s: %v; want %q", row.name, err, row.err)
		}
	}
}
