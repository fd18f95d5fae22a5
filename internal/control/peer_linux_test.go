package control

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/netlab"
)

// TestForeignPeer checks that a process in namespaces of its own, though of the
// same user, is closed unheard: it may be a guest.
func TestForeignPeer(t *testing.T) {
	t.Parallel()
	socat := netlab.Tool(t, "socat")
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	for _, flags := range []uintptr{syscall.CLONE_NEWUSER, syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID} {
		cmd := exec.Command(socat, "-u", "OPEN:/dev/null", "UNIX-CONNECT:"+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  flags,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		}
		if err := cmd.Run(); err != nil {
			t.Logf("%#x: %v", flags, err) // closed before it could write, perhaps
		}
		select {
		case <-accepted:
			t.Errorf("a peer with flags %#x was accepted", flags)
		case <-time.After(50 * time.Millisecond):
		}
	}
	// One of us gets through.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ours, ok := <-accepted
	if !ok {
		t.Fatal("our own connection was refused")
	}
	ours.Close()
}
