package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/hv/namespace"
	"github.com/sluicenet/sluice/internal/control"
)

// creatorVar holds, as JSON, the creation that this binary is to be a creator of.
const creatorVar = "SLUICE_SANDBOX_TEST_CREATOR"

// A creation is what a creator is to create. Its name is of this test alone, since
// it marks the processes; so does the number of seconds that its command sleeps.
type creation struct {
	Dirs Dirs
	Name string
	Mark string
}

// becomeCreator is a creator's life, where this process is to be one; it doesn't
// return then.
func becomeCreator() {
	if spec := os.Getenv(creatorVar); spec != "" {
		createAndWait(spec)
	}
}

// A killed is what a creator tells of its sandbox.
type killed struct {
	Port string // that it publishes
}

// createAndWait is a creator: it starts a sandbox, publishes a port, runs a
// command, tells of it and waits for the sandbox's end.
func createAndWait(spec string) {
	var cr creation
	ctx := context.Background()
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, "creator:", err)
		os.Exit(1)
	}
	if err := json.Unmarshal([]byte(spec), &cr); err != nil {
		fail(err)
	}
	p, err := StartProcess(ctx, Launch{Dirs: cr.Dirs, Name: cr.Name, Config: public.raw()})
	if err != nil {
		fail(err)
	}
	c := control.NewClient(p.Ready().Socket)
	port, err := c.Publish(ctx, control.Port{Protocol: "tcp", Host: netip.MustParseAddrPort("127.0.0.1:0"), GuestPort: 80})
	if err != nil {
		<-p.Exited()
		fail(err)
	}
	if _, err := c.Exec(ctx, control.Command{Args: []string{"sleep", cr.Mark}}); err != nil {
		<-p.Exited()
		fail(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode(killed{port.Host.String()})
	<-p.Exited()
	os.Exit(0)
}

// TestKills kills creator, sandbox and agent in turn, at random moments, and
// checks that nothing stays and that the name is free again. SLUICE_LARGE=1 does
// so 200 times.
func TestKills(t *testing.T) {
	needNamespaces(t)
	rounds := 30
	if os.Getenv("SLUICE_LARGE") == "1" {
		rounds = 200
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("%d rounds, seed %d", rounds, seed)
	cr := creation{Dirs: testDirs(t), Name: fmt.Sprintf("victim-%d", os.Getpid()), Mark: fmt.Sprintf("271%d", os.Getpid())}
	before := take(t, cr)
	victims := [...]string{"creator", "sandbox", "agent"}
	hits := make(map[string]int)
	for round := range rounds {
		victim := victims[round%len(victims)]
		// A start takes some 80 ms; half of the kills come after it.
		delay := time.Duration(random.IntN(160)) * time.Millisecond
		hit := killOne(t, cr, victim, delay)
		hits[hit]++
		waitGone(t, cr, before, fmt.Sprintf("round %d: %s killed after %v", round, hit, delay))
		if t.Failed() {
			return
		}
	}
	t.Logf("killed %v", hits)
	p, err := launch(t.Context(), cr.Dirs, cr.Name, public)
	if err != nil {
		t.Fatalf("the name afterwards: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	checkEmpty(t, cr.Dirs)
}

// killOne starts a creator, kills the victim after a while, or the nearest above
// it that there is by then, and returns who it was when the creator has ended.
func killOne(t *testing.T, cr creation, victim string, delay time.Duration) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(cr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), creatorVar+"="+string(spec), "SLUICE_HOME="+cr.Dirs.Home)
	var said strings.Builder
	cmd.Stdout, cmd.WaitDelay = &said, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(delay)
	pid, hit := cmd.Process.Pid, "creator"
	for _, next := range [...][2]string{{"sandbox", Role}, {"agent", namespace.Role}} {
		below := childCalled(pid, next[1])
		if hit == victim || below == 0 {
			break
		}
		pid, hit = below, next[0]
	}
	_ = unix.Kill(pid, unix.SIGKILL) // it may just have ended
	_ = cmd.Wait()                   // killed, or as it says on its standard error
	var told killed
	if json.Unmarshal([]byte(said.String()), &told) == nil {
		if c, err := net.Dial("tcp", told.Port); err == nil && hit != "creator" {
			c.Close()
			t.Errorf("%s was killed, and %s is still published", hit, told.Port)
		}
	}
	return hit
}

// childCalled returns the child of a process that has this argv[0], 0 if there is
// none: the runtime has children for a moment too.
func childCalled(pid int, name string) int {
	below, _ := children(pid) // it may be gone
	for _, p := range below {
		line, _ := os.ReadFile(procPath(p, "cmdline"))
		if strings.HasPrefix(string(line), name+"\x00") {
			return p
		}
	}
	return 0
}

// A snapshot is what must be the same before and after. Namespaces are not among
// it: they live by their processes, and by mounts.
type snapshot struct {
	processes string // of ours
	mounts    int
	listeners int
	files     string // of sandboxes: locks, sockets, states
}

// take takes a snapshot of the machine.
func take(t *testing.T, cr creation) snapshot {
	t.Helper()
	var s snapshot
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		dir := filepath.Join("/proc", e.Name())
		line, _ := os.ReadFile(dir + "/cmdline") // it may be gone, or be no process
		words := strings.Split(string(line), "\x00")
		env, _ := os.ReadFile(dir + "/environ")
		// The creator and the sandbox's process have the home in their
		// environment, the guest's processes a word of ours in their arguments.
		if strings.Contains(string(env), "SLUICE_HOME="+cr.Dirs.Home) || slices.Contains(words, cr.Name) || slices.Contains(words, cr.Mark) {
			s.processes += e.Name() + " " + strings.Join(words, " ") + "; "
		}
	}
	if text, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		s.mounts = strings.Count(string(text), "\n")
	}
	if text, err := os.ReadFile("/proc/net/tcp"); err == nil {
		s.listeners = strings.Count(string(text), " 0A ")
	}
	for _, dir := range []string{cr.Dirs.sandboxes(), cr.Dirs.blocks(), cr.Dirs.Runtime} {
		// What vanishes meanwhile isn't there.
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && path != dir {
				s.files += path + "; "
			}
			return nil
		})
	}
	return s
}

// waitGone waits until the machine is as it was.
func waitGone(t *testing.T, cr creation, before snapshot, what string) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		now := take(t, cr)
		if now == before {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: left %+v, was %+v", what, now, before)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
