package link

import (
	"bytes"
	"testing"
)

func TestStreamSmoke(t *testing.T) {
	a, b, err := Pair(Stream)
	if err != nil {
		t.Fatal(err)
	}
	la, err := Open(a, Stream)
	if err != nil {
		t.Fatal(err)
	}
	lb, err := Open(b, Stream)
	if err != nil {
		t.Fatal(err)
	}
	defer la.Close()
	defer lb.Close()
	want := bytes.Repeat([]byte("abcdefgh"), 8000)
	go func() {
		for range 1000 {
			la.WriteFrames([]Frame{{Data: want[:100], More: [][]byte{want[100:]}}})
		}
		la.Close()
	}()
	frames := make([]Frame, 16)
	for i := range frames {
		frames[i].Data = make([]byte, 0, 65536)
	}
	got := 0
	for {
		n, err := lb.ReadFrames(frames)
		if err != nil {
			t.Log(err)
			break
		}
		for _, f := range frames[:n] {
			if !bytes.Equal(f.Data, want) {
				t.Fatal("differs")
			}
		}
		got += n
	}
	t.Log(got, la.Dropped())
}
