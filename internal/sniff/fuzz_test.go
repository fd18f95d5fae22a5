package sniff

import "testing"

// FuzzClassify checks that the verdict doesn't depend on how the bytes are cut,
// and that no forgiving server sees a name in them that we don't.
func FuzzClassify(f *testing.F) {
	for _, row := range firstBytes {
		f.Add([]byte(row.in), uint16(len(row.in)/2), uint16(len(row.in)))
	}
	for _, flight := range corpus(f) {
		f.Add(flight.bytes, uint16(5), uint16(len(flight.bytes)/2))
	}
	f.Fuzz(func(t *testing.T, b []byte, i, j uint16) {
		checkOracles(t, b, dst)
		for _, closed := range []bool{false, true} {
			want := Classify(b, closed, dst)
			pieces := Flight{Dst: dst}
			for _, end := range []int{int(min(i, j)), int(max(i, j))} {
				if got := pieces.Next(b[:min(end, len(b))], false); got.Kind != More && !closed && got != want {
					t.Fatalf("first %d bytes: got %+v, want %+v", end, got, want)
				}
			}
			if got := pieces.Next(b, closed); got != want {
				t.Fatalf("cut at %d and %d: got %+v, want %+v", i, j, got, want)
			}
			if closed && want.Kind == More {
				t.Fatal("undecided, though nothing follows")
			}
			if want.Name != "" {
				if name, ok := canonicalName([]byte(want.Name)); !ok || name != want.Name {
					t.Fatalf("name %q isn't canonical", want.Name)
				}
			}
			if want.Len > len(b) {
				t.Fatalf("length %d of %d bytes", want.Len, len(b))
			}
			want.ALPN()
		}
	})
}

// FuzzHello checks the same for a handshake message that is cut into records.
func FuzzHello(f *testing.F) {
	for _, flight := range corpus(f) {
		if flight.kind == TLS {
			f.Add(flight.bytes[recordHeaderLen:], uint16(1), uint16(len(flight.bytes)/2))
		}
	}
	f.Fuzz(func(t *testing.T, message []byte, i, j uint16) {
		at := []int{min(int(min(i, j)), len(message)), min(int(max(i, j)), len(message))}
		if len(message) == 0 || len(message) > maxRecord || at[0] == 0 || at[0] == at[1] || at[1] == len(message) {
			return
		}
		want := Classify([]byte(record(string(message))), true, dst)
		in := []byte(records(cut(string(message), at...)...))
		got := Classify(in, true, dst)
		want.Len, want.Reason = got.Len, got.Reason // which depend on the records
		if got != want {
			t.Fatalf("cut at %v: got %+v, want %+v", at, got, want)
		}
		checkOracles(t, in, dst)
	})
}

// FuzzRequests checks that we, net/http and x/net/http2 see the same requests in a stream,
// however it is cut.
func FuzzRequests(f *testing.F) {
	for _, row := range requestStreams {
		f.Add([]byte(row.in), uint16(3))
	}
	for _, b := range []string{to("a.example"), block("x", "y"), to("a.example", "host", "b.example")} {
		f.Add([]byte(preface+frame(frameSettings, 0, 0, "")+headers(1, b)+headers(3, b)), uint16(3))
		f.Add([]byte(preface+frame(frameHeaders, 0, 1, b[:2])+frame(frameContinuation, flagEndHeaders, 1, b[2:])), uint16(3))
	}
	f.Fuzz(func(t *testing.T, stream []byte, n uint16) {
		checkRequests(t, stream)
		want, got := follow(string(stream), len(stream)+1), follow(string(stream), int(n)+1)
		if tell(got) != tell(want) {
			t.Fatalf("%d bytes at a time: got %s, want %s", n, tell(got), tell(want))
		}
	})
}

// FuzzQUICInitial checks that no datagram makes it panic.
func FuzzQUICInitial(f *testing.F) {
	f.Add([]byte("\xc0\x00\x00\x00\x01\x14"))
	f.Fuzz(func(t *testing.T, b []byte) {
		QUICInitial(append(b, make([]byte, minInitial)...))
		QUICInitial(b)
	})
}
