package secret

import (
	"fmt"
	"io"
)

// readSize is how much a stream reads at a time while it holds bytes back.
const readSize = 32 << 10

// An editor decides what becomes of the hits in a stream.
type editor interface {
	// matcher returns what is looked for from the next bytes on.
	matcher() *matcher
	// edit appends to dst what takes the place of the hit h in data, or ends the
	// stream with an error.
	edit(dst, data []byte, h hit) ([]byte, error)
}

// A stream is a reader over another one in which hits are replaced. What comes out
// doesn't depend on how the bytes come in. It belongs to the goroutine that reads.
//
// Bytes go the short way as long as there is no hit: from src into the caller's
// buffer, where they are searched.
type stream struct {
	src    io.Reader
	editor editor
	held   []byte // read, not decided: the beginning of a form
	ready  []byte // decided, not yet handed out
	err    error  // what follows ready
	buf    []byte // where held and the bytes after it meet; allocated when first needed
}

// Read implements [io.Reader].
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(s.ready) > 0 {
			n := copy(p, s.ready)
			s.ready = s.ready[n:]
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
		if n := s.fill(p); n > 0 {
			return n, nil
		}
	}
}

// Format implements [fmt.Formatter]: every verb prints no byte of what is on its way.
func (s *stream) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "stream of a body") }

// fill reads once from src. It returns how many bytes of p are decided and to be
// handed out, before ready and err.
func (s *stream) fill(p []byte) int {
	if len(s.held) == 0 {
		n, err := s.src.Read(p)
		return s.decide(p[:n], err)
	}
	if need := len(s.held) + readSize; cap(s.buf) < need {
		s.buf = make([]byte, 0, need)
	}
	data := append(s.buf[:0], s.held...)
	n, err := s.src.Read(data[len(data):cap(data)])
	data = data[:len(data)+n]
	n = s.decide(data, err)
	s.ready = append(data[:n:n], s.ready...)
	return 0
}

// decide sorts out data, after which src returned err: it returns the length of
// its beginning without a hit, and sets ready, held and err for what follows.
func (s *stream) decide(data []byte, err error) int {
	s.ready, s.held, s.err = nil, s.held[:0], err
	final := err == io.EOF
	m := s.editor.matcher()
	clean, from := -1, 0 // clean is the length, once a hit has ended the beginning
	for {
		h, found := m.find(data, from, final)
		end := len(data)
		if found {
			end = h.start
		}
		if clean < 0 {
			clean = end
		} else {
			s.ready = append(s.ready, data[from:end]...)
		}
		switch {
		case !found:
			return clean
		case h.open && err != nil:
			// The rest won't come. What may be most of a value isn't handed out.
			return clean
		case h.open:
			s.held = append(s.held, data[h.start:]...)
			return clean
		}
		if s.ready, s.err = s.editor.edit(s.ready, data, h); s.err != nil {
			return clean
		}
		s.err = err
		from = h.end
	}
}
