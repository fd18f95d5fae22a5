package namespace

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Args[0] == Role {
		Main()
	}
	os.Exit(m.Run())
}
