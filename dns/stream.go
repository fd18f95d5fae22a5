package dns

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sluicenet/sluice/policy"
)

const (
	// streamIdle is how long a TCP connection may take for its next query, from
	// the end of the last to the end of the next: bytes that trickle in keep
	// nothing alive. https://www.rfc-editor.org/rfc/rfc7766#section-6.2.3
	streamIdle = 30 * time.Second

	// streamWrite is how long a guest may take to read an answer.
	streamWrite = 10 * time.Second
)

// ServeConn answers the queries that come over one TCP connection, pipelined and
// in the order in which answers are found, until the guest closes its side, is
// idle for 30 s, or sends what is no query. It closes c and returns when it
// doesn't touch it any more.
func (s *Server) ServeConn(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.wg.Add(1)
	s.conns[c] = struct{}{} // Close closes them, and so ends a read that waits
	s.mu.Unlock()
	defer s.wg.Done()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()

	// A slot is taken per query and given back when its answer is written. As
	// many answers fit into the channel, so that who answers never waits for a
	// slow guest.
	pipelined := s.cfg.Limits.Pipelined
	slots := make(chan struct{}, pipelined)
	answers := make(chan []byte, pipelined)
	broken := make(chan struct{}) // closed by the writer when the guest doesn't read
	stop := make(chan struct{})   // closed below
	var writer sync.WaitGroup
	writer.Go(func() { writeAnswers(c, answers, slots, broken, stop) })
	s.readQueries(c, slots, answers, broken)
	for range pipelined { // until the answers that are due are written
		select {
		case slots <- struct{}{}:
		case <-broken:
		case <-s.ctx.Done():
		}
	}
	close(stop)
	writer.Wait()
}

// readQueries reads and starts queries until the connection has no more.
func (s *Server) readQueries(c net.Conn, slots chan struct{}, answers chan<- []byte, broken <-chan struct{}) {
	r := bufio.NewReaderSize(c, 1024)
	buf := make([]byte, 512) // as most queries fit
	for {
		select {
		case slots <- struct{}{}:
		case <-broken:
			return
		case <-s.ctx.Done():
			return
		}
		c.SetReadDeadline(time.Now().Add(streamIdle))
		msg, err := readMessage(r, buf)
		// A message that deserves no answer ends the connection: over TCP, unlike
		// UDP, nobody else can have sent it.
		if err != nil || !s.serve(msg, policy.TCP, time.Now(), func(answer []byte) { answers <- answer }) {
			<-slots
			return
		}
	}
}

// readMessage reads one message with its length in front, into buf if it fits.
// https://www.rfc-editor.org/rfc/rfc7766#section-8
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n > maxQuery {
		return nil, errTooLong
	}
	if n > len(buf) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

// writeAnswers writes answers to c until stop or until c breaks.
func writeAnswers(c net.Conn, answers <-chan []byte, slots <-chan struct{}, broken chan<- struct{}, stop <-chan struct{}) {
	for {
		select {
		case answer := <-answers:
			c.SetWriteDeadline(time.Now().Add(streamWrite))
			// One write, so that length and message share a segment: RFC 7766,
			// section 8.
			framed := make([]byte, 2, 2+len(answer))
			binary.BigEndian.PutUint16(framed, uint16(len(answer)))
			if _, err := c.Write(append(framed, answer...)); err != nil {
				// Half a message may be out: nothing that followed would be read right.
				close(broken)
				c.Close() // wakes the reader
				return
			}
			<-slots
		case <-stop:
			return
		}
	}
}
