package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/hv"
	"github.com/sluicenet/sluice/internal/control"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/image"
	"github.com/sluicenet/sluice/mitm"
	"github.com/sluicenet/sluice/mitm/secret"
	"github.com/sluicenet/sluice/policy"
	"github.com/sluicenet/sluice/vnet"
	"github.com/sluicenet/sluice/vnet/link"
)

// A Sandbox is one running sandbox. Its methods may be called by several
// goroutines.
type Sandbox struct {
	spec   control.Spec
	cfg    Config
	dirs   Dirs
	info   control.Info // immutable
	log    *slog.Logger // writes events
	remark *slog.Logger // beside them; may be nil

	// What it owns, in the order in which it is made. Each is nil until then;
	// nothing changes after start.
	claim      *claim
	events     *recorder
	output     *logger      // what commands write
	console    consoleLog   // what the guest's kernel does, by way of output
	image      *image.Image // holds the root against removal; nil without one
	block      *blockClaim
	vm         hv.VM
	resolver   *dns.Server
	proxy      *mitm.Proxy // nil where TLS isn't read
	secrets    *secret.Set // nil without any
	network    *vnet.Network
	agent      *guest.Client
	server     *control.Server
	helpers    sync.WaitGroup     // goroutines of background
	followers  sync.WaitGroup     // the goroutines that follow the host
	unfollow   context.CancelFunc // ends them; nil before they start
	reach      *reach
	activity   *activity
	main       foreground
	meter      meter
	sessions   atomic.Uint64 // number of the last command
	guestConns conns
	leash      *leash // nil in the caller's process
	inherits   bool   // the guest has standard files of its creator's
	fakeIP     bool   // has been warned of; owned by refresh

	compile    Compile       // for updates
	updating   sync.Mutex    // held for the length of an update; guards the following field
	current    Config        // as compiled last, not as fitted to this machine
	ruling     sync.Mutex    // held for the length of a change of rules
	generation atomic.Uint64 // of the rules of network and resolver; changed under ruling

	asked  atomic.Bool                     // somebody called Stop
	ending chan string                     // why to end now; sent to once
	why    atomic.Pointer[control.Failure] // what a call fails with that ends with the sandbox; nil before
	over   chan struct{}                   // closed by close when the claims are let go and ended is valid
	ended  control.Ended
	done   chan struct{} // closed by live when nothing runs any more

	mu     sync.Mutex     // guards the following fields, and claim's state
	closed bool           // no helper may begin any more
	host   hostNet        // as last read
	policy *policy.Policy // of this moment; nil without a network
	told   *policy.Host   // what network and resolver know
	nat64  []netip.Prefix // as last discovered
}

// start makes a sandbox, or fails and leaves nothing. ctx governs the start
// only. Serving and living is begun by run.
func start(ctx context.Context, spec control.Spec, opts Options) (*Sandbox, error) {
	cfg, err := opts.Compile(spec.Config)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{
		spec:   spec,
		cfg:    cfg,
		remark: opts.Logger,
		dirs:   Dirs{Home: spec.Home, Runtime: spec.Runtime},
		leash:  opts.leash,
		ending: make(chan string, 1),
		over:   make(chan struct{}),
		done:   make(chan struct{}),

		compile: opts.Compile,
		current: cfg,
	}
	s.generation.Store(1) // of the rules that network and resolver begin with
	if cfg.Network != nil {
		compiled := *cfg.Network
		s.current.Network, s.policy = &compiled, compiled.Policy
	}
	if err := s.begin(ctx, opts); err != nil {
		return nil, errors.Join(err, s.close(control.Ended{At: time.Now()}))
	}
	return s, nil
}

// begin makes what the sandbox owns, in order. What it leaves when it fails is
// for close.
func (s *Sandbox) begin(ctx context.Context, opts Options) error {
	if err := s.dirs.Create(); err != nil {
		return &control.Failure{Kind: control.KindIO, Message: err.Error(), Hint: "set SLUICE_HOME to a directory of yours"}
	}
	now := time.Now()
	if err := s.claimDirectory(now); err != nil {
		return err
	}
	s.activity = newActivity(s.cfg, now)
	eventsFile := s.claim.path(eventsName)
	var err error
	if s.events, err = newRecorder(s.spec.Name, eventsFile); err != nil {
		return ioFailure(err)
	}
	s.log = slog.New(&eventHandler{events: s.events, level: s.cfg.LogLevel})
	if s.output, err = newLogger(s.claim.path(logName), maxLogFile); err != nil {
		return ioFailure(err)
	}
	s.console.log = s.output
	if _, err := s.dirs.Sweep(); err != nil {
		s.log.Warn("remove what dead sandboxes left", "error", err)
	}
	if err := s.openImage(ctx); err != nil {
		return err
	}
	hypervisor, err := opts.Open(ctx, s.cfg.Backend)
	if err != nil {
		return &control.Failure{Kind: control.KindUnsupported, Message: err.Error(), Hint: "sluice doctor says what each backend needs"}
	}
	if err := s.beginNetwork(ctx); err != nil {
		return err
	}
	if err := s.beginGuest(ctx, hypervisor, opts); err != nil {
		return err
	}
	s.info = control.Info{
		Name:     s.spec.Name,
		PID:      os.Getpid(),
		Backend:  hypervisor.Name(),
		Created:  now,
		Warnings: s.cfg.Warnings,
		Events:   eventsFile,
		Status:   control.StatusRunning,
		Detached: s.cfg.Detached,
		Keep:     s.cfg.Keep,
		Labels:   s.cfg.Labels,
		Image:    s.cfg.Image,
	}
	if s.block != nil {
		s.info.Ports = s.Ports()
		s.info.Block4, s.info.Block6 = s.block.block.Prefix4.String(), s.block.block.Prefix6.String()
	}
	if err := s.note(func(st *Found) { st.Backend = hypervisor.Name() }); err != nil {
		return ioFailure(err)
	}
	l, err := control.Listen(s.claim.socket)
	if err != nil {
		return ioFailure(err)
	}
	s.server = control.Serve(l, s)
	return nil
}

// claimDirectory claims the sandbox's name.
func (s *Sandbox) claimDirectory(now time.Time) error {
	name := s.spec.Name
	st := Found{
		Name:     name,
		Status:   control.StatusRunning,
		PID:      os.Getpid(),
		Created:  now,
		Updated:  now,
		Keep:     s.cfg.Keep,
		Detached: s.cfg.Detached,
		Labels:   s.cfg.Labels,
		Image:    s.cfg.Image,
		Config:   s.cfg.ConfigJSON,
	}
	var err error
	s.claim, err = s.dirs.claimName(st, s.spec.Again)
	switch {
	case errors.Is(err, errHeld):
		return &control.Failure{Kind: control.KindExists, Message: fmt.Sprintf("a sandbox named %q runs already", name), Hint: "stop it, or choose another name"}
	case errors.Is(err, errKept):
		return &control.Failure{Kind: control.KindExists, Message: fmt.Sprintf("there is a stopped sandbox named %q", name), Hint: "start it, remove it or replace it, or choose another name"}
	case errors.Is(err, errNone):
		return &control.Failure{Kind: control.KindNotFound, Message: fmt.Sprintf("there is no stopped sandbox named %q", name)}
	case err != nil:
		return ioFailure(err)
	}
	return nil
}

// openImage takes the image's files as the root, if there is one.
func (s *Sandbox) openImage(ctx context.Context) error {
	if s.cfg.Image == "" {
		return nil
	}
	// No registry is asked: the creator has brought the image into the cache.
	store, err := image.Open(image.Config{Dir: s.dirs.Images(), Offline: true})
	if err != nil {
		return ioFailure(err)
	}
	s.image, err = store.Get(ctx, s.cfg.Image)
	switch {
	case errors.Is(err, image.ErrNotFound):
		return &control.Failure{Kind: control.KindImageNotFound, Message: err.Error(), Hint: "pull it again"}
	case err != nil:
		return ioFailure(err)
	}
	s.cfg.Root = s.image.RootDir
	return nil
}

// beginNetwork claims the block and looks at the host's network, if the guest is
// to have one.
func (s *Sandbox) beginNetwork(ctx context.Context) error {
	n := s.cfg.Network
	if n == nil {
		return nil
	}
	var err error
	if s.host, err = s.readHost(ctx); err != nil {
		return ioFailure(err)
	}
	s.reach = newReach(s.host)
	var warning string
	s.block, warning, err = s.dirs.claimBlock(n.Pool, s.host)
	switch {
	case errors.Is(err, errPoolFull):
		return &control.Failure{Kind: control.KindArgument, Message: "claim addresses: " + err.Error(), Hint: "give a larger IPv4Pool or IPv6Pool, or stop other sandboxes"}
	case err != nil:
		return ioFailure(err)
	case warning != "":
		s.cfg.Warnings = append(s.cfg.Warnings, warning)
	}
	files, err := openFiles()
	if err != nil {
		return ioFailure(err)
	}
	limits, warnings, err := fitFiles(n.Limits, files)
	if err != nil {
		return err
	}
	n.Limits = limits
	s.cfg.Warnings = append(s.cfg.Warnings, warnings...)
	return nil
}

// beginGuest starts the guest, connects its card and tells its agent what it is
// to be.
func (s *Sandbox) beginGuest(ctx context.Context, hypervisor hv.Hypervisor, opts Options) error {
	cfg := hv.Config{
		Name:      s.spec.Name,
		Hide:      []string{s.dirs.Home, s.dirs.Runtime},
		CPUs:      s.cfg.CPUs,
		MemoryMiB: s.cfg.MemoryMiB,
		Mounts:    s.cfg.Mounts,
		Kernel:    s.cfg.Kernel,
		Console:   &s.console,
		Logger:    s.log,
	}
	if n := s.cfg.Network; n != nil {
		cfg.NIC = &hv.NIC{MAC: s.block.block.GuestMAC, MTU: uint16(n.MTU)}
	}
	if passesFiles(hypervisor) {
		cfg.Stdio = opts.Stdio
	}
	s.inherits = cfg.Stdio != [3]*os.File{}
	err := s.giveRoot(ctx, hypervisor, &cfg)
	if err != nil {
		return err
	}
	if s.vm, err = hypervisor.Start(ctx, cfg); err != nil {
		return startFailure("start guest", err)
	}
	if s.cfg.Network != nil {
		if err := s.connect(); err != nil {
			return startFailure("start network", err)
		}
	}
	s.agent = guest.NewClient(s.vm.Agent())
	if err := s.agent.Boot(ctx, s.bootstrap()); err != nil {
		return startFailure("set up guest", err)
	}
	s.cfg.Warnings = append(s.cfg.Warnings, s.agent.Warnings()...)
	keeps := s.keepsFiles(hypervisor)
	if s.cfg.Keep && !keeps {
		s.cfg.Warnings = append(s.cfg.Warnings, s.warnOfLoss())
	}
	// A root that was kept has what was written to it, patches included.
	if !s.spec.Again || !keeps {
		if err := s.patch(ctx); err != nil {
			return err
		}
	}
	if s.cfg.Network == nil {
		return nil
	}
	for _, p := range s.cfg.Network.Ports {
		if _, err := s.publish(p); err != nil {
			return err
		}
	}
	if err := s.follow(); err != nil {
		return ioFailure(err)
	}
	return nil
}

// passesFiles reports whether a backend gives its creator's files to the guest: a
// process's can be passed on, a machine has its own.
func passesFiles(h hv.Hypervisor) bool { return h.Name() == "namespace" || h.Name() == "fake" }

// connect puts the network and the resolver behind the guest's card.
func (s *Sandbox) connect() error {
	n := s.cfg.Network
	host, err := s.policyHost()
	if err != nil {
		return err
	}
	s.told = host
	block := s.block.block
	s.resolver, err = dns.New(dns.Config{
		Nameservers: n.Nameservers,
		Timeout:     n.QueryTimeout,
		Gateways:    []netip.Addr{block.Gateway4, block.Gateway6},
		Policy:      n.Policy,
		Host:        host,
		Usable:      s.usable,
		Events:      func(e dns.Event) { s.events.emit(resolverRecord(e)) },
		Limits:      dns.Limits{QueriesPerSecond: n.DNSQueriesPerSecond},
	})
	if err != nil {
		return err
	}
	if err := s.intercept(); err != nil {
		return err
	}
	file, format := s.vm.NIC()
	card, err := link.Open(file, format)
	if err != nil {
		return err
	}
	s.network, err = vnet.New(vnet.Config{
		Link:      card,
		Block:     block,
		MTU:       n.MTU,
		Policy:    n.Policy,
		Host:      host,
		Reject:    n.Reject,
		Unusable:  s.hostNet().unusable(),
		DNS:       s.resolver,
		Names:     s.resolver,
		Inspector: s.inspector(),
		Events:    func(e vnet.Event) { s.events.emit(networkRecord(e)) },
		Limits:    n.Limits,
		RateLimit: n.RateLimit,
		Logger:    s.log,
	})
	return err
}

// bootstrap is what the agent is told first.
func (s *Sandbox) bootstrap() guest.Bootstrap {
	b := guest.Bootstrap{Hostname: s.cfg.Hostname, Env: s.environment()}
	var warning string
	if b.CA, warning = s.trustedCAs(); warning != "" {
		s.cfg.Warnings = append(s.cfg.Warnings, warning)
	}
	if b.Hostname == "" {
		b.Hostname = s.spec.Name
	}
	if s.cfg.Network != nil {
		n := s.guestNetwork()
		b.Network = &n
	}
	return b
}

// guestNetwork is the guest's configuration for the host's network as last
// read.
func (s *Sandbox) guestNetwork() guest.Network {
	block, host := s.block.block, s.hostNet()
	mtu := s.cfg.Network.MTU
	if mtu == 0 {
		mtu = 1500
	}
	gateways := []netip.Addr{block.Gateway4, block.Gateway6}
	n := guest.Network{
		MTU: mtu,
		Addrs: []netip.Prefix{
			netip.PrefixFrom(block.Guest4, block.Prefix4.Bits()),
			netip.PrefixFrom(block.Guest6, block.Prefix6.Bits()),
		},
		Gateways:    gateways,
		Default4:    host.usable4,
		Default6:    host.usable6,
		Nameservers: gateways,
		GatewayMAC:  guest.HardwareAddr(block.GatewayMAC),
	}
	n.Hosts = s.cfg.Network.hostEntries(gateways)
	return n
}

// run tells that the sandbox has started, and lives until it has ended.
func (s *Sandbox) run() {
	for _, w := range s.cfg.Warnings {
		s.warn(w)
	}
	s.events.emit(record{Type: typeStarted, Time: time.Now(), Message: s.info.Backend})
	go s.live()
}

// live waits for a reason to end, then closes everything.
func (s *Sandbox) live() {
	defer close(s.done)
	exits := make(chan control.Exit, 1)
	go waitGuest(s.vm, exits)
	var expiry sync.WaitGroup
	expiry.Go(s.expire)
	defer expiry.Wait()
	ended := control.Ended{Source: control.SourceGuest}
	select {
	case ended.Exit = <-exits:
		s.hearOut()
		if s.asked.Load() { // and the guest did as it was told
			ended.Source = control.SourceStop
		}
	case ended.Source = <-s.ending:
		if err := s.vm.Kill(); err != nil {
			s.log.Warn("kill guest", "error", err)
		}
		ended.Exit = <-exits
	}
	ended.At = time.Now()
	if err := s.close(ended); err != nil {
		s.report("clean up", err)
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.helpers.Wait()
}

// lastWordTime bounds how long the end of a dead guest's stream is waited for.
// It is there already, unless something outside the guest holds the stream open.
const lastWordTime = 2 * time.Second

// hearOut waits until the dead guest's last reply, its command's exit, has
// reached the call that waits for it.
func (s *Sandbox) hearOut() {
	t := time.NewTimer(lastWordTime)
	defer t.Stop()
	select {
	case <-s.agent.Ended():
	case <-t.C:
	}
}

// waitGuest sends how the guest ended.
func waitGuest(vm hv.VM, exits chan<- control.Exit) {
	exit, err := vm.Wait(context.Background()) // Kill ends it, not a context
	if err != nil {
		exit = hv.Exit{Code: -1}
	}
	exits <- control.Exit{Code: exit.Code, Signal: exit.Signal}
}

// reasons are what ends a sandbox, for those whose calls end with it.
var reasons = map[string]string{
	control.SourceStop:      "it was stopped",
	control.SourceKill:      "it was killed",
	control.SourceCreator:   "its creator ended, or let go of it",
	control.SourceSignal:    "its process was told to end",
	control.SourceDrain:     "it was drained",
	control.SourceLimit:     "its longest time is over",
	control.SourceIdle:      "it was idle for too long",
	control.SourceViolation: "a secret was on its way to a host that is not its own",
}

// end gives the sandbox a reason to end. It doesn't wait.
func (s *Sandbox) end(source string) {
	s.endBecause(source, &control.Failure{Kind: control.KindNotRunning, Message: fmt.Sprintf("sandbox %q has ended: %s", s.spec.Name, reasons[source])})
}

// endBecause is end, with what calls fail with that end with the sandbox.
func (s *Sandbox) endBecause(source string, why *control.Failure) {
	if s.why.CompareAndSwap(nil, why) {
		s.ending <- source // for which there is room
	}
}

// answerTime bounds how long answers that are being sent may take when the
// sandbox has ended. Whoever hasn't read by then isn't reading.
const answerTime = 2 * time.Second

// close closes what the sandbox owns, in the order that the package's doc gives.
func (s *Sandbox) close(ended control.Ended) error {
	var errs []error
	if s.agent != nil {
		errs = append(errs, s.agent.Close())
	}
	if s.vm != nil {
		errs = append(errs, s.vm.Close())
		s.console.end() // nobody writes to it any more
	}
	if s.image != nil {
		errs = append(errs, s.image.Close())
	}
	if s.unfollow != nil {
		s.unfollow()
		s.followers.Wait()
	}
	s.guestConns.close()
	if s.network != nil {
		errs = append(errs, s.network.Close())
	}
	if s.proxy != nil {
		errs = append(errs, s.proxy.Close())
	}
	if s.resolver != nil {
		errs = append(errs, s.resolver.Close())
	}
	if s.events != nil {
		ended.Allowed, ended.Denied = s.events.allowed.Load(), s.events.denied.Load()
		s.events.emit(record{Type: typeStopped, Time: ended.At, Source: ended.Source, Allowed: ended.Allowed, Denied: ended.Denied})
		s.events.close()
	}
	if s.output != nil {
		s.output.close()
	}
	if s.block != nil {
		errs = append(errs, s.block.release())
	}
	switch {
	case s.claim == nil:
	case s.server == nil: // it never ran
		errs = append(errs, s.claim.abandon())
	default:
		s.mu.Lock()
		errs = append(errs, s.claim.end(ended))
		s.mu.Unlock()
	}
	s.ended = ended
	close(s.over)
	if s.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		defer cancel()
		s.server.Shutdown(ctx)
	}
	return errors.Join(errs...)
}
