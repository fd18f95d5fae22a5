package qemu

import "time"

// An emulated processor counts time by the host's counter, and a microvm has no
// other clock to measure that by: a guest that is told a wrong frequency has a
// clock that is wrong by as much (tried: "sleep 5" took 4 s). So the host measures
// it, in the time that it prepares the guest.

// A tscSample is the host's counter at a moment.
type tscSample struct {
	count uint64
	at    time.Time // with a monotonic reading
}

// sampleTSC returns what the counter says now. It takes the best of some tries:
// one in which nothing came between the clock and the counter.
func sampleTSC() tscSample {
	var best tscSample
	least := time.Hour
	for range 8 {
		before := time.Now()
		count := readTSC()
		if took := time.Since(before); took < least {
			least = took
			best = tscSample{count, before.Add(took / 2)}
		}
	}
	return best
}

// tscInterval is how long the counter is watched at least: the clock's own steps,
// and what comes between the two, are less than a millionth of it.
const tscInterval = 5 * time.Millisecond

// frequencyKHz returns the counter's frequency from two samples; 0 if there is no
// counter, or they are less than tscInterval apart.
func frequencyKHz(first, last tscSample) uint64 {
	elapsed := last.at.Sub(first.at)
	if elapsed < tscInterval || last.count <= first.count {
		return 0
	}
	return uint64(float64(last.count-first.count) / elapsed.Seconds() / 1000)
}

// tscFrequencyKHz returns the counter's frequency, after a wait if the sample is
// too young; 0 if there is no counter.
func tscFrequencyKHz(first tscSample) uint64 {
	if left := tscInterval - time.Since(first.at); left > 0 {
		<-time.After(left)
	}
	return frequencyKHz(first, sampleTSC())
}
