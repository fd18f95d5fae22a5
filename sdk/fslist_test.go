package sdk

import (
	"io/fs"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// endless is a directory without an end, and its entries.
type endless struct{}

func (endless) Filelist(*sftp.Request) (sftp.ListerAt, error) { return endless{}, nil }

func (endless) ListAt(list []os.FileInfo, _ int64) (int, error) {
	for i := range list {
		list[i] = endless{}
	}
	return len(list), nil
}

func (endless) Name() string       { return strings.Repeat("x", 250) }
func (endless) Size() int64        { return math.MaxInt64 }
func (endless) Mode() fs.FileMode  { return 0 }
func (endless) ModTime() time.Time { return time.Time{} }
func (endless) IsDir() bool        { return false }
func (endless) Sys() any           { return nil }

// TestEndlessDirectory checks that a server whose list never ends fills nobody's
// memory.
func TestEndlessDirectory(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	server := sftp.NewRequestServer(theirs, sftp.Handlers{FileList: endless{}})
	go func() {
		_ = server.Serve() // until we hang up
		server.Close()
	}()
	stream := &metered{ReadWriteCloser: ours}
	stream.left.Store(math.MaxInt64)
	client, err := sftp.NewClientPipe(stream, stream)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := &session{Client: client, stream: stream}
	if infos, err := s.list(t.Context(), "/"); err == nil || !strings.Contains(err.Error(), "longer than 67108864 bytes") || infos != nil {
		t.Errorf("%d entries, %v", len(infos), err)
	}
}
