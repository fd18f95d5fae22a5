package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// A marker is an editor that writes [subject] in the place of a hit.
type marker struct {
	m   *matcher
	end error // what the second hit is answered by
	n   int
}

func (e *marker) matcher() *matcher { return e.m }

func (e *marker) edit(dst, _ []byte, h hit) ([]byte, error) {
	if e.n++; e.n == 2 && e.end != nil {
		return dst, e.end
	}
	return fmt.Appendf(dst, "[%d]", h.subject), nil
}

// A pieces is a reader of given pieces, each by one Read or several, then err.
type pieces struct {
	list [][]byte
	err  error
	last bool // err comes with the last piece
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.list) == 0 {
		return 0, p.err
	}
	n := copy(b, p.list[0])
	if p.list[0] = p.list[0][n:]; len(p.list[0]) == 0 {
		p.list = p.list[1:]
	}
	if len(p.list) == 0 && p.last {
		return n, p.err
	}
	return n, nil
}

func TestStream(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ patterns, in, want string }{
		{"$KEY", "", ""},
		{"$KEY", "nothing here", "nothing here"},
		{"$KEY", "$KEY", "[0]"},
		{"$KEY", "a$KEYb$KEYc", "a[0]b[0]c"},
		{"$KEY", "$KEY$KEY$KEY", "[0][0][0]"},
		{"$KEY", "$KE$KEY", "$KE[0]"},
		{"$KEY", "x$KE", "x$KE"},
		{"$KEY", "x$", "x$"},
		{"$KEY", `%24KEY\u0024KEY%24KE`, "[0][0]%24KE"},
		{"$A $AB", "$A$AB$A", "[0][1][0]"},
		{"$A $AB", "$A%42$A%", "[1][0]%"},
		{"[0] $KEY", "$KEY", "[1]"}, // output isn't scanned again
		{"]b a", "ab", "[1]b"},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "one byte": iotest.OneByteReader, "half": iotest.HalfReader,
			"data with EOF": iotest.DataErrReader, "one byte, EOF with it": func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
		} {
			s := &stream{src: wrap(strings.NewReader(row.in)), editor: &marker{m: texts(strings.Fields(row.patterns)...)}}
			if got, err := io.ReadAll(s); string(got) != row.want || err != nil {
				t.Errorf("%q in %q, %s: %q, %v, want %q", row.patterns, row.in, name, got, err, row.want)
			}
		}
	}
}

// TestStreamIsAReader runs the standard library's checks of readers.
func TestStreamIsAReader(t *testing.T) {
	t.Parallel()
	in := strings.Repeat("some text $KEY more $KE ", 100)
	want := strings.ReplaceAll(in, "$KEY", "[0]")
	s := &stream{src: strings.NewReader(in), editor: &marker{m: texts("$KEY")}}
	if err := iotest.TestReader(s, []byte(want)); err != nil {
		t.Error(err)
	}
}

// TestStreamSplits: what comes out doesn't depend on how the bytes come in, nor on
// how they are asked for.
func TestStreamSplits(t *testing.T) {
	t.Parallel()
	piece := rapid.SampledFrom(confusing)
	rapid.Check(t, func(t *rapid.T) {
		patterns := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return strings.Join(rapid.SliceOfN(piece, 1, 4).Draw(t, "pieces"), "")
		}), 1, 3).Draw(t, "patterns")
		in := strings.Join(rapid.SliceOfN(rapid.OneOf(piece, rapid.SampledFrom(patterns)), 0, 30).Draw(t, "in"), "")
		m := texts(patterns...)
		want, _ := io.ReadAll(&stream{src: strings.NewReader(in), editor: &marker{m: m}})
		var list [][]byte
		for rest := []byte(in); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			list, rest = append(list, rest[:n]), rest[n:]
		}
		s := &stream{src: &pieces{list: list, err: io.EOF, last: rapid.Bool().Draw(t, "last")}, editor: &marker{m: m}}
		var got []byte
		buf := make([]byte, rapid.IntRange(1, 50).Draw(t, "buffer"))
		for {
			n, err := s.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%q in %q, split as %q: %q, want %q", patterns, in, list, got, want)
		}
	})
}

// TestStreamHoldsBackNoMore: every byte that can't be part of a form is handed out
// before more is asked of the source.
func TestStreamHoldsBackNoMore(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, want string }{
		{"data: x\n\n", "data: x\n\n"},
		{"data: $", "data: "},
		{"$KEX", "$KEX"},
		{"$KE", ""},
		{"$K $KE", "$K "},
		{"$KEY", "[0]"},
		{"$KEY$", "[0]"},
		{"%2", ""},
		{"%2f", "%2f"},
		{`\u00`, ""},
		{`\u0025`, `\u0025`},
	} {
		blocked := errors.New("asked for more")
		s := &stream{src: &pieces{list: [][]byte{[]byte(row.in)}, err: blocked}, editor: &marker{m: texts("$KEY")}}
		var got []byte
		for {
			buf := make([]byte, 64)
			n, err := s.Read(buf)
			if got = append(got, buf[:n]...); err != nil {
				break
			}
		}
		if string(got) != row.want {
			t.Errorf("%q: %q before more was asked for, want %q", row.in, got, row.want)
		}
	}
}

// TestStreamErrors: what precedes an error is handed out, but what may be most of a
// value isn't.
func TestStreamErrors(t *testing.T) {
	t.Parallel()
	broken, refused := errors.New("broken"), errors.New("refused")
	for _, row := range []struct {
		in      string
		end     error
		want    string
		wantErr error
	}{
		{"abc", nil, "abc", broken},
		{"abc$KE", nil, "abc", broken},
		{"$KEY$KE", nil, "[0]", broken},
		{"a$KEYb$KEYc", refused, "a[0]b", refused},
		{"$KEY$KEY", refused, "[0]", refused},
	} {
		for _, last := range []bool{false, true} {
			s := &stream{src: &pieces{list: [][]byte{[]byte(row.in)}, err: broken, last: last}, editor: &marker{m: texts("$KEY"), end: row.end}}
			got, err := io.ReadAll(s)
			if string(got) != row.want || err != row.wantErr {
				t.Errorf("%q: %q, %v, want %q, %v", row.in, got, err, row.want, row.wantErr)
			}
			if n, err := s.Read(make([]byte, 8)); n != 0 || err != row.wantErr {
				t.Errorf("%q: after the error: %d, %v", row.in, n, err)
			}
		}
	}
	if n, err := new(stream).Read(nil); n != 0 || err != nil {
		t.Errorf("reading nothing: %d, %v", n, err)
	}
}
