package link

import (
	"io"
	"os"
)

// flushBytes is how much the flusher writes at once, in bytes: what it has written
// makes room in the outbox only afterwards.
const flushBytes = 256 << 10

// A stream is a link over a byte stream: a socket, or whatever else reads and
// writes. See Stream.
type stream struct {
	end
	drops
	conn io.ReadWriteCloser
	out  outbox
	vec  *vectorWriter // owned by the owner of out's file; nil if conn can only wait

	// Owned by the reader:
	in    deframer
	merge coalescer
}

var (
	_ Link        = (*stream)(nil)
	_ DropCounter = (*stream)(nil)
	_ sink        = (*stream)(nil)
)

func openStream(f *os.File, cfg Config) (Link, error) {
	f, err := adopt(f)
	if err != nil {
		return nil, err
	}
	return newStream(f, cfg), nil
}

// newStream returns the link over conn and takes ownership of it.
func newStream(conn io.ReadWriteCloser, cfg Config) *stream {
	s := &stream{conn: conn, vec: newVectorWriter(conn), merge: coalescer{off: cfg.KeepSegments}}
	s.out = outbox{sink: s, limit: cfg.queueBytes(), drops: &s.drops, fail: func(cause error) error {
		return s.fail(conn, "write frames", cause)
	}}
	s.out.start()
	return s
}

// ReadFrames implements Link.
func (s *stream) ReadFrames(frames []Frame) (int, error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	for len(frames) > 0 {
		n, err := s.parse(frames)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			n, err = s.conn.Read(s.in.space())
			s.in.wrote(n)
			if n > 0 {
				continue
			}
		}
		if err == io.EOF && s.in.partial() {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, s.fail(s.conn, "read frames", err)
		}
	}
	return 0, nil
}

// parse copies what has arrived whole to the callers' memory and returns how many
// frames that is. An error is that of the first.
func (s *stream) parse(frames []Frame) (int, error) {
	s.merge.begin(frames)
	for {
		b, ok, err := s.in.peek()
		if !ok || !s.merge.add(b) {
			return s.merge.end(), err
		}
		s.in.take(b)
	}
}

// WriteFrames implements Link.
func (s *stream) WriteFrames(frames []Frame) (int, error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	if err := s.out.write(frames); err != nil {
		return 0, err
	}
	return len(frames), nil
}

// writeTrain implements sink.
func (s *stream) writeTrain(t *train) error {
	for len(t.rest()) > 0 {
		n, err := s.tryWrite(t.rest())
		t.advance(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// tryRecords implements sink.
func (s *stream) tryRecords(records []byte) (int, error) {
	written := 0
	for written < len(records) {
		n, err := s.tryWrite([][]byte{records[written:]})
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// waitRecords implements sink.
func (s *stream) waitRecords(records []byte) (int, error) {
	return s.conn.Write(records[:min(len(records), flushBytes)])
}

// tryWrite writes as much of pieces as there is room for; errFull if there is
// none.
func (s *stream) tryWrite(pieces [][]byte) (int, error) {
	if s.vec == nil {
		return 0, errFull
	}
	return s.vec.write(pieces)
}

// Close implements Link.
func (s *stream) Close() error {
	err := s.close(s.conn)
	s.out.close()
	return err
}
