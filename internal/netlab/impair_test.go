package netlab

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// TestPass counts what a bad wire does to many frames.
func TestPass(t *testing.T) {
	t.Parallel()
	const frames = 10_000
	for _, how := range []Impairment{
		{},
		{Loss: 1},
		{Loss: 0.1},
		{Duplicate: 0.1},
		{Reorder: 0.1},
		{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1, Seed: 7},
	} {
		w := bad{how: how, dice: mathrand.New(mathrand.NewPCG(how.Seed, 0))}
		seen := make(map[string]int)
		late, newest := 0, -1
		for i := range frames {
			for _, f := range w.pass(fmt.Append(nil, i)) {
				seen[string(f)]++
				n := 0
				fmt.Sscan(string(f), &n)
				if n < newest {
					late++
				}
				newest = max(newest, n)
			}
		}
		duplicates := 0
		for _, n := range seen {
			duplicates += n - 1
		}
		for _, part := range []struct {
			name string
			got  int
			want float64
		}{
			{"lost", frames - len(seen), how.Loss},
			{"duplicates", duplicates, how.Duplicate},
			{"late", late, how.Reorder},
		} {
			share := float64(part.got) / frames
			if share < part.want*0.7-0.001 || share > part.want*1.2+0.001 {
				t.Errorf("%+v: %.3f %s, want about %v", how, share, part.name, part.want)
			}
		}
	}
}

// TestImpair shows that TCP comes through a bad wire whole, and ping doesn't.
func TestImpair(t *testing.T) {
	t.Parallel()
	lab := New(t)
	h := lab.Host(t, "bad.example")
	h.TCP(7, Echo)
	h.Impair(Impairment{Loss: 0.02, Duplicate: 0.02, Reorder: 0.05, Seed: 1})
	want := make([]byte, 1<<20)
	rand.Read(want)
	for _, family := range families {
		c := dial(t, h.Endpoint(family, 7))
		go func() { // ends with the connection
			c.Write(want)
			c.(*net.TCPConn).CloseWrite()
		}()
		c.SetDeadline(time.Now().Add(time.Minute))
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("IPv%d: %d bytes came back, %v, want the %d sent", family, len(got), err, len(want))
		}
	}
	lost := lab.Host(t, "lost.example")
	lost.Impair(Impairment{Loss: 1})
	if out, err := run(t, "ping -n -c 1 -W 1 lost.example"); err == nil || !strings.Contains(out, "100% packet loss") {
		t.Errorf("ping over a wire that loses all: %v\n%s", err, out)
	}
}
