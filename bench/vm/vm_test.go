//go:build linux

package vm

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/qemu"
	"github.com/sluicenet/sluice/internal/guest"
	"github.com/sluicenet/sluice/internal/image/disk"
	"github.com/sluicenet/sluice/internal/netlab"
)

var (
	table     = flag.Bool("table", false, "measure and print the tables; without it there is nothing to test")
	rounds    = flag.Int("rounds", 5, "rounds, of which each row shows the median")
	duration  = flag.Duration("duration", 2*time.Second, "of one throughput measurement")
	fileCount = flag.Int("files", 200_000, "files of the large image")
)

func TestMain(m *testing.M) {
	if os.Args[0] == qemu.Role {
		qemu.Main() // doesn't return
	}
	netlab.Main(m)
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
