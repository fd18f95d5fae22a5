package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// logQueue bounds the records that wait to be written. A command whose output
// finds no room waits: the disk sets the pace, and nothing is lost.
const logQueue = 64

// A logger writes a log. Its methods may be called by several goroutines; one
// goroutine does the writing.
type logger struct {
	path  string
	limit int64          // bytes of a file
	queue chan logRecord // closed by close
	done  chan struct{}  // closed by run when the last record is written

	sending sync.RWMutex // held for reading while sending to queue
	closed  bool         // guarded by sending

	file *logFile // owned by run
	next int64    // position of the next record; owned by run

	mu      sync.Mutex    // guards the following fields
	ended   bool          // no more will come
	changed chan struct{} // closed, and replaced, when there is more to read, or ended changes
}

// newLogger starts a logger that goes on with the log at path.
func newLogger(path string, limit int64) (*logger, error) {
	l := &logger{
		path:    path,
		limit:   limit,
		queue:   make(chan logRecord, logQueue),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	go l.run()
	return l, nil
}

// open opens the log behind its last whole record. What isn't a log is begun
// anew.
func (l *logger) open() error {
	f, err := openLogFile(l.path, os.O_RDWR)
	if err == nil {
		if l.next, err = f.read(f.base, func(logRecord) bool { return true }); err == nil {
			end := int64(logHeader) + l.next - f.base
			l.file = f
			if err = f.f.Truncate(end); err == nil {
				_, err = f.f.Seek(end, io.SeekStart)
			}
		}
		if err == nil {
			return nil
		}
		_ = f.f.Close() // only read
	}
	l.next = 0
	l.file, err = createLogFile(l.path, 0)
	return err
}

// append writes p to the log; what comes after close isn't. It waits for the
// disk, and doesn't keep p.
func (l *logger) append(source string, session uint64, now time.Time, p []byte) {
	l.sending.RLock()
	defer l.sending.RUnlock()
	if l.closed {
		return
	}
	for len(p) > 0 {
		n := min(len(p), maxLogData)
		l.queue <- logRecord{source: sourceNumber(source), session: session, at: now, data: bytes.Clone(p[:n])}
		p = p[n:]
	}
}

// run writes what is in the queue until that is closed.
func (l *logger) run() {
	defer close(l.done)
	var batch []byte
	for rec := range l.queue {
		batch = appendRecord(batch[:0], rec)
		for len(batch) < int(min(maxRecord, l.limit/8)) && len(l.queue) > 0 { // a file stays below its limit
			batch = appendRecord(batch, <-l.queue) // only run receives, so there is one
		}
		l.write(batch)
	}
	_ = l.file.f.Close() // it was written as far as it could be
	l.tell(true)
}

// write writes whole records. What the disk doesn't take is lost; a full one must
// not end the sandbox.
func (l *logger) write(batch []byte) {
	if size := l.next - l.file.base; size > 0 && size+int64(len(batch)) > l.limit {
		if err := l.rotate(); err != nil {
			return
		}
	}
	n, err := l.file.f.Write(batch)
	if err != nil && n > 0 { // a part of a record must not stand before the next
		end := int64(logHeader) + l.next - l.file.base
		_ = l.file.f.Truncate(end)
		_, _ = l.file.f.Seek(end, io.SeekStart)
	}
	if err != nil {
		return
	}
	l.next += int64(len(batch))
	l.tell(false)
}

// rotate begins another file.
func (l *logger) rotate() error {
	if err := os.Rename(l.path, l.path+logSuffixLast); err != nil {
		return err
	}
	next, err := createLogFile(l.path, l.next)
	if err != nil {
		return err
	}
	_ = l.file.f.Close() // it is written
	l.file = next
	return nil
}

// tell wakes who follows.
func (l *logger) tell(ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = ended
	close(l.changed)
	l.changed = make(chan struct{})
}

// news returns the channel that says when to read again, nil if there is no
// need.
func (l *logger) news() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	return l.changed
}

// close writes what is queued and ends the logger; who follows gets the rest. It
// is idempotent, and append does nothing afterwards.
func (l *logger) close() {
	l.sending.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.sending.Unlock()
	<-l.done
}

// A logFilter is a query, checked.
type logFilter struct {
	control.LogQuery
	from int64
}

func newLogFilter(q control.LogQuery) (logFilter, error) {
	f := logFilter{LogQuery: q}
	for _, s := range q.Sources {
		if !slices.Contains(control.LogSources(), s) {
			return f, &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("sources: %q: want %v", s, control.LogSources())}
		}
	}
	if q.From != "" {
		var err error
		if f.from, err = strconv.ParseInt(q.From, 10, 64); err != nil || f.from < 0 {
			return f, &control.Failure{Kind: control.KindArgument, Message: fmt.Sprintf("FromCursor: %q: is no cursor", q.From), Hint: "give the Cursor of a LogEntry, or none for the beginning"}
		}
	}
	return f, nil
}

// wants reports whether a record fits the query.
func (f logFilter) wants(r logRecord) bool {
	return (len(f.Sources) == 0 || slices.Contains(f.Sources, logSources[r.source])) &&
		(f.Since.IsZero() || !r.at.Before(f.Since)) &&
		(f.Until.IsZero() || r.at.Before(f.Until))
}

// entriesBatch bounds the entries that are handed over at once, so that a long
// log isn't held whole.
const entriesBatch = 64

// read hands over the entries that are there and returns the position behind the
// last record that it looked at.
func (f logFilter) read(path string, write func([]control.LogEntry) error) (int64, error) {
	var batch []control.LogEntry
	var failed error
	next, err := readLog(path, f.from, func(r logRecord) bool {
		if !f.wants(r) {
			return true
		}
		batch = append(batch, r.entry())
		switch {
		case f.Tail > 0 && uint64(len(batch)) > f.Tail:
			batch[0].Data = nil // or the slice's array would hold it
			batch = batch[1:]
		case f.Tail == 0 && len(batch) == entriesBatch:
			failed = write(batch)
			batch = batch[:0]
		}
		return failed == nil
	})
	if failed == nil && len(batch) > 0 {
		failed = write(batch)
	}
	return next, errors.Join(err, failed)
}

// Logs calls write with the entries that q asks for of the log of a sandbox,
// running or kept. It doesn't follow.
func Logs(d Dirs, name string, q control.LogQuery, write func([]control.LogEntry) error) error {
	if _, err := Find(d, name); err != nil {
		return err
	}
	f, err := newLogFilter(q)
	if err != nil {
		return err
	}
	if _, err := f.read((&claim{dir: d.dir(name)}).path(logName), write); err != nil {
		return ioFailure(err)
	}
	return nil
}

// Logs implements control.Sandbox. Before it waits for more it calls write without
// an entry.
func (s *Sandbox) Logs(ctx context.Context, q control.LogQuery, write func([]control.LogEntry) error) error {
	f, err := newLogFilter(q)
	if err != nil {
		return err
	}
	for {
		news := s.output.news() // before reading, or something could be missed
		next, err := f.read(s.output.path, write)
		if err != nil || !q.Follow || news == nil {
			return err
		}
		f.from, f.Tail = next, 0 // Tail is about what was there
		var over <-chan time.Time
		if !q.Until.IsZero() {
			left := time.Until(q.Until)
			if left <= 0 {
				return nil
			}
			over = time.After(left)
		}
		if err := write(nil); err != nil { // who reads learns that this is all for now
			return err
		}
		select {
		case <-news:
		case <-over: // what was written just before is read once more
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
