//go:build linux || darwin

package link

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkLink carries frames from one end to the other, with as many in flight
// as a TCP window holds and no more, so that none is dropped. MB/s is of frames.
func BenchmarkLink(b *testing.B) {
	for _, m := range media() {
		if m.name == "pipe" {
			continue
		}
		small := segment{payload: pattern(1448), flags: 0x10}.frame(1448)
		jumbo := segment{payload: pattern(65160), flags: 0x10}.frame(65160)
		cut := segment{payload: pattern(65160), flags: 0x10}.frame(1448)
		done := func(f Frame) Frame {
			f.Data = cutAll(b, f)[0]
			f.Offload = Offload{}
			return f
		}
		for _, bb := range []struct {
			name  string
			frame Frame
			batch int // frames per call
		}{
			{"mtu=1500", done(small), 1},
			{"mtu=1500/batch=32", done(small), 32},
			{"mtu=1500/segmented", cut, 1},
			{"mtu=65520", done(jumbo), 1},
			{"mtu=65520/checksum", jumbo, 1},
		} {
			b.Run(m.name+"/"+bb.name, func(b *testing.B) { benchmarkLink(b, m, bb.frame, bb.batch) })
		}
	}
}

func benchmarkLink(b *testing.B, m medium, f Frame, batch int) {
	const window = 1 << 20
	ours, guests := m.open(b, Config{})
	per := 1 // frames that the guest gets of each
	if !m.header {
		per = len(cutAll(b, f))
	}
	frames := make([]Frame, batch)
	for i := range frames {
		frames[i] = f
	}
	var received atomic.Int64
	progress := make(chan struct{}, 1)
	go func() {
		defer close(progress)
		in := room(64, 1<<16)
		for {
			n, err := guests.ReadFrames(in)
			if err != nil {
				return
			}
			received.Add(int64(n))
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	}()
	b.SetBytes(int64(len(f.Data) * batch))
	b.ReportAllocs()
	before := cpuTime(b)
	sent, inFlight := int64(0), int64(max(window/len(f.Data), batch))*int64(per)
	for b.Loop() {
		for sent-received.Load() > inFlight {
			<-progress
		}
		write(b, ours, frames...)
		sent += int64(batch * per)
	}
	for received.Load() < sent-int64(ours.Dropped()) {
		<-progress
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	if d := ours.Dropped(); d > 0 {
		b.ReportMetric(float64(d), "dropped")
	}
	ours.Close()
	guests.Close()
	for range progress { // until it is closed
	}
}

// cpuTime returns what this process has used so far, in nanoseconds.
func cpuTime(b *testing.B) int64 {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}
