package guest

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// An obedient child notes what it is asked for. Nothing else of it is called.
type obedient struct {
	Child
	asked []string
}

func (o *obedient) Signal(n int) error {
	o.asked = append(o.asked, fmt.Sprintf("signal %d", n))
	return nil
}

func (o *obedient) Resize(rows, cols uint16) error {
	o.asked = append(o.asked, fmt.Sprintf("size %dx%d", rows, cols))
	return nil
}

// What a host asks of a command is done, and what is no request of ours is none.
func TestControl(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		request string
		payload []byte
		want    string // "" for nothing
	}{
		{requestSignal, encodeNumbers(15), "signal 15"},
		{requestSignal, encodeNumbers(1), "signal 1"},
		{requestSignal, encodeNumbers(64), "signal 64"},
		{requestSignal, encodeNumbers(0), ""}, // kill(2) would only look
		{requestSignal, encodeNumbers(65), ""},
		{requestSignal, encodeNumbers(1<<32 - 9), ""}, // -9
		{requestSignal, encodeNumbers(9, 9), ""},
		{requestSignal, []byte{9}, ""},
		{requestSignal, nil, ""},
		{requestResize, encodeSize(24, 80), "size 24x80"},
		{requestResize, encodeSize(0, 0), "size 0x0"},
		{requestResize, encodeSize(65535, 1), "size 65535x1"},
		{requestResize, encodeNumbers(24, 80), ""},
		{requestResize, nil, ""},
		{"signal", encodeNumbers(9), ""}, // RFC 4254's, which has a name for a payload
		{"", nil, ""},
	} {
		var child obedient
		control(&child, &ssh.Request{Type: row.request, Payload: row.payload})
		if want := (map[bool][]string{true: {row.want}})[row.want != ""]; !slices.Equal(child.asked, want) {
			t.Errorf("%q %x: %q; want %q", row.request, row.payload, child.asked, want)
		}
	}
}
