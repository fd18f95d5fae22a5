package hv_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sluicenet/sluice/hv"
)

// A helpful error knows what would help.
type helpful string

func (helpful) Error() string  { return "no" }
func (h helpful) Help() string { return string(h) }

func TestReportOf(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err  error
		want hv.Report
	}{
		{errors.New("no"), hv.Report{Reason: "no"}},
		{helpful("install it"), hv.Report{Reason: "no", Fix: "install it"}},
		{fmt.Errorf("start: %w", helpful("install it")), hv.Report{Reason: "start: no", Fix: "install it"}},
		{errors.Join(errors.New("first"), helpful("second"), helpful("third")), hv.Report{Reason: "first; no; no", Fix: "second"}},
	} {
		if got := hv.ReportOf(row.err); got != row.want {
			t.Errorf("ReportOf(%q) = %+v; want %+v", row.err, got, row.want)
		}
	}
}
