//go:build !cgo

package krun

import (
	"errors"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// A program without cgo says what would help, and starts nothing.
func TestWithoutCgo(t *testing.T) {
	t.Parallel()
	h := New()
	if r := h.Probe(t.Context()); r.Usable || !strings.Contains(r.Fix, "CGO_ENABLED=1") {
		t.Errorf("%+v", r)
	}
	if _, err := h.Start(t.Context(), hv.Config{Name: "x", Root: t.TempDir()}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
