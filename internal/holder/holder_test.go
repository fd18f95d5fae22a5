package holder

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestOf finds this process by what it listens on.
func TestOf(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udpPort := udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	for _, tt := range []struct {
		addr string
		udp  bool
		held bool
	}{
		{tcp.Addr().String(), false, true},
		{fmt.Sprintf("127.0.0.1:%d", udpPort), true, true}, // on all addresses, so on this one
		{"192.0.2.1:" + tcp.Addr().String()[len("127.0.0.1:"):], false, false},
		{"127.0.0.1:0", false, false},
	} {
		want := ""
		if tt.held && runtime.GOOS == "linux" {
			want = fmt.Sprintf("(process %d)", os.Getpid())
		}
		if got := Of(netip.MustParseAddrPort(tt.addr), tt.udp); !strings.HasSuffix(got, want) || want == "" && got != "" {
			t.Errorf("%s, udp %v: held by %q, want %q", tt.addr, tt.udp, got, want)
		}
	}
}
