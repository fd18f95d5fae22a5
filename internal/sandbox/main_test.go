package sandbox

import (
	"testing"

	"github.com/sluicenet/sluice/internal/netlab"
)

func TestMain(m *testing.M) { netlab.Main(m) }

// testDirs returns directories of a test's own.
func testDirs(t *testing.T) Dirs {
	t.Helper()
	d := Dirs{Home: t.TempDir() + "/home", Runtime: t.TempDir() + "/run"}
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	return d
}
