package sandbox

import (
	"strings"
	"testing"

	"github.com/sluicenet/sluice/vnet"
)

// TestFitFiles checks how descriptors are shared out. 0 is a number that nobody
// asked for, -1 none at all.
func TestFitFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		files    uint64
		tcp, udp int
		wantTCP  int
		wantUDP  int
		warnings int
		err      string // within the error
	}{
		{1 << 20, 0, 0, 4096, 1024, 0, ""},
		{5120 + 128 + 1024, 0, 0, 4096, 1024, 0, ""}, // 3 to 1 leaves room
		{1024, 0, 0, 672, 224, 2, ""},
		{128, 0, 0, -1, -1, 2, ""},
		{0, 0, 0, -1, -1, 2, ""},
		{1024, 600, 0, 600, 296, 1, ""},
		{1024, 673, 0, 0, 0, 0, `MaxConnections: "673": does not fit: this process may open 1024 files, of which 672 are left for it`},
		{1 << 20, 65536, 0, 65536, 1024, 0, ""},
		{1024, -1, 0, -1, 896, 1, ""},
		{1024, 0, 224, 672, 224, 1, ""},
		{1024, 0, 225, 0, 0, 0, `Limits.UDPSessions: "225"`},
		{1024, 0, -1, 896, -1, 1, ""},
		{1024, 800, 96, 800, 96, 0, ""},
		{1024, 800, 97, 0, 0, 0, `MaxConnections: "800": does not fit: this process may open 1024 files, of which 799 are left for it`},
		{100, 1, 0, 0, 0, 0, `MaxConnections: "1"`},
		{^uint64(0), 0, 0, 4096, 1024, 0, ""},
	} {
		got, warnings, err := fitFiles(vnet.Limits{TCPFlows: tt.tcp, UDPSessions: tt.udp}, tt.files)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%d files, %d and %d asked: %v, want %s", tt.files, tt.tcp, tt.udp, err, tt.err)
			}
			continue
		}
		if err != nil || got.TCPFlows != tt.wantTCP || got.UDPSessions != tt.wantUDP || len(warnings) != tt.warnings {
			t.Errorf("%d files, %d and %d asked: %d and %d, %q, %v; want %d and %d, %d warnings",
				tt.files, tt.tcp, tt.udp, got.TCPFlows, got.UDPSessions, warnings, err, tt.wantTCP, tt.wantUDP, tt.warnings)
		}
	}
}

// TestOpenFiles checks that the runtime has raised the soft limit, as fitFiles
// relies on.
func TestOpenFiles(t *testing.T) {
	t.Parallel()
	tcp, udp, files, err := DefaultLimits()
	if err != nil || files < 1024 || tcp <= 0 || udp <= 0 {
		t.Errorf("%d flows and %d sockets from %d files, %v", tcp, udp, files, err)
	}
}
