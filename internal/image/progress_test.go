package image

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestProgress shows the events of a pull, and of one from the cache.
func TestProgress(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	img := imageOf(t, layer(t, file("a", randomText(3<<20))), layer(t, file("b", "x")))
	ref := h.push(t, "r:1", img)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var events []Event
	cfg := testConfig(t)
	cfg.Progress = func(e Event) { events = append(events, e) }
	s := newStore(t, cfg)
	mustPull(t, s, ref, PullOptions{})

	seen := make(map[EventKind]map[int]int64) // by kind and layer: bytes
	for _, e := range events {
		if e.Ref != ref {
			t.Errorf("%+v: want %q", e, ref)
		}
		if seen[e.Kind] == nil {
			seen[e.Kind] = make(map[int]int64)
		}
		layers := e.Kind == Downloading || e.Kind == Unpacking
		if layers && (e.Layers != 2 || e.Total != m.Layers[e.Layer].Size || e.Digest != m.Layers[e.Layer].Digest.String() || e.Bytes > e.Total) {
			t.Errorf("%+v is of layer %+v", e, m.Layers[e.Layer])
		}
		if e.Bytes < seen[e.Kind][e.Layer] {
			t.Errorf("%+v goes back", e)
		}
		seen[e.Kind][e.Layer] = e.Bytes
	}
	whole := map[int]int64{0: m.Layers[0].Size, 1: m.Layers[1].Size}
	want := map[EventKind]map[int]int64{Resolving: {0: 0}, Downloading: whole, Unpacking: whole, Finished: {0: 0}}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if last := events[len(events)-1]; last.Kind != Finished || last.Digest != digestOf(t, img) {
		t.Errorf("the last is %+v", last)
	}
	events = nil
	mustPull(t, s, ref, PullOptions{})
	if len(events) != 1 || events[0].Kind != Finished {
		t.Errorf("from the cache: %+v", events)
	}
}

// TestSlowProgress shows that the work doesn't wait for who watches it, and that
// who watches sees the latest.
func TestSlowProgress(t *testing.T) {
	t.Parallel()
	h := newHub(t)
	ref := h.push(t, "r:1", imageOf(t, layer(t, file("a", randomText(2<<20)))))
	cfg := testConfig(t)
	entered, release := make(chan struct{}), make(chan struct{})
	var events []Event
	cfg.Progress = func(e Event) {
		if events = append(events, e); len(events) == 1 {
			close(entered)
			<-release
		}
	}
	s := newStore(t, cfg)
	returned := make(chan error, 1)
	go func() {
		img, err := s.Pull(t.Context(), ref, PullOptions{})
		if err == nil {
			err = img.Close()
		}
		returned <- err
	}()
	<-entered
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if roots, err := s.unpacked(); err != nil || len(roots) == 1 {
			break // the work is done, while the first event is being looked at
		}
		if time.Now().After(deadline) {
			t.Fatal("the pull waits for its progress")
		}
	}
	select {
	case err := <-returned:
		t.Errorf("it returned before its last event (%v)", err)
	default:
	}
	close(release)
	if err := <-returned; err != nil {
		t.Fatal(err)
	}
	if len(events) > 4 || events[len(events)-1].Kind != Finished {
		t.Errorf("%d events, the last %+v", len(events), events[len(events)-1])
	}
}

// TestPost shows that what waits is bounded, and in order.
func TestPost(t *testing.T) {
	t.Parallel()
	p := &progress{ref: "r", wake: make(chan struct{}, 1), done: make(chan struct{})}
	for i := range 1000 {
		p.post(Event{Kind: Downloading, Layer: i % 3, Bytes: int64(i)})
		p.post(Event{Kind: Unpacking, Bytes: int64(i)})
	}
	var got []int64
	for _, e := range p.pending {
		got = append(got, e.Bytes)
	}
	if want := []int64{999, 999, 997, 998}; !slices.Equal(got, want) {
		t.Errorf("%v wait, want %v", got, want)
	}
	var none *progress
	none.post(Event{})
	none.close()
}
