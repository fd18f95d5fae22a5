package sandbox

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/sluicenet/sluice/internal/control"
)

// A log is a sequence of records, of which the last are kept, in two files: NAME
// and, before it, NAME.1. A file begins with logMagic and the position of its
// first record, in the log since that began; a cursor is the position behind a
// record. A record is, all big-endian:
//
//	uint32 length of what follows, uint8 source, uint64 session,
//	int64 nanoseconds of Unix time, the bytes
//
// A file may end in the middle of a record, when its writer was killed or is
// writing: what isn't whole isn't there.
const (
	logMagic      = "sluicel1"
	logHeader     = len(logMagic) + 8
	recordHead    = 4
	recordFixed   = 1 + 8 + 8
	maxLogData    = 64 << 10 // bytes of one record
	maxRecord     = recordFixed + maxLogData
	maxLogFile    = 16 << 20 // bytes; twice as much is kept
	logSuffixLast = ".1"
)

// logSources are the sources by their number in a record.
var logSources = [...]string{"", control.LogStdout, control.LogStderr, control.LogOutput, control.LogSystem}

// sourceNumber returns the number of a source, 0 if there is no such.
func sourceNumber(name string) byte {
	for i, s := range logSources {
		if s == name {
			return byte(i)
		}
	}
	return 0
}

// A logRecord is one entry, as it is in a file.
type logRecord struct {
	source  byte
	session uint64
	at      time.Time
	data    []byte
	end     int64 // position behind it
}

// entry returns the record as the API has it.
func (r logRecord) entry() control.LogEntry {
	return control.LogEntry{
		Source:  logSources[r.source],
		Session: r.session,
		Time:    r.at,
		Data:    r.data,
		Cursor:  strconv.FormatInt(r.end, 10),
	}
}

// appendRecord appends a record to dst.
func appendRecord(dst []byte, r logRecord) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(recordFixed+len(r.data)))
	dst = append(dst, r.source)
	dst = binary.BigEndian.AppendUint64(dst, r.session)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.at.UnixNano()))
	return append(dst, r.data...)
}

// errPartial is the error of readRecord where a record isn't whole.
var errPartial = errors.New("record is not whole")

// readRecord reads the record that begins at position at.
func readRecord(r io.Reader, at int64) (logRecord, error) {
	var head [recordHead + recordFixed]byte
	if n, err := io.ReadFull(r, head[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return logRecord{}, io.EOF
		}
		return logRecord{}, partial(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	source := head[recordHead]
	if n < recordFixed || n > maxRecord || source == 0 || int(source) >= len(logSources) {
		return logRecord{}, fmt.Errorf("read log: damaged at %d", at)
	}
	rec := logRecord{
		source:  source,
		session: binary.BigEndian.Uint64(head[recordHead+1:]),
		at:      time.Unix(0, int64(binary.BigEndian.Uint64(head[recordHead+9:]))).UTC(),
		data:    make([]byte, n-recordFixed),
		end:     at + recordHead + int64(n),
	}
	if _, err := io.ReadFull(r, rec.data); err != nil {
		return logRecord{}, partial(err)
	}
	return rec, nil
}

// partial returns errPartial for the end of a file in the middle of a record.
func partial(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errPartial
	}
	return err
}

// A logFile is an open file of a log.
type logFile struct {
	f    *os.File
	base int64 // position of its first record
}

// openLogFile opens a file of a log for reading, or with flags for more.
func openLogFile(path string, flags int) (*logFile, error) {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	head := make([]byte, logHeader)
	if _, err := f.ReadAt(head, 0); err != nil || string(head[:len(logMagic)]) != logMagic {
		return nil, errors.Join(fmt.Errorf("%s is no log", path), f.Close())
	}
	return &logFile{f: f, base: int64(binary.BigEndian.Uint64(head[len(logMagic):]))}, nil
}

// createLogFile creates, or empties, a file whose first record is to be at base.
func createLogFile(path string, base int64) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(binary.BigEndian.AppendUint64([]byte(logMagic), uint64(base))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &logFile{f: f, base: base}, nil
}

// read calls yield with the whole records from position from on, and returns the
// position behind the last one. yield ends it by returning false.
func (l *logFile) read(from int64, yield func(logRecord) bool) (int64, error) {
	at := max(from, l.base)
	info, err := l.f.Stat()
	if err != nil {
		return at, err
	}
	size := info.Size() - int64(logHeader)
	if at-l.base > size { // a cursor of another log
		return at, nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(l.f, int64(logHeader)+at-l.base, size-(at-l.base)), maxRecord)
	for {
		rec, err := readRecord(r, at)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errPartial):
			return at, nil
		case err != nil:
			return at, err
		case !yield(rec):
			return rec.end, nil
		}
		at = rec.end
	}
}

// readLog calls yield with the records of the log at path from position from on
// and returns the position behind the last one. A log that isn't there is empty.
func readLog(path string, from int64, yield func(logRecord) bool) (int64, error) {
	// The newer file first: if it is renamed meanwhile, both are the same one.
	cur, err := openLogFile(path, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return from, nil
	}
	if err != nil {
		return from, err
	}
	defer cur.f.Close()
	more := true
	record := func(r logRecord) bool {
		more = yield(r)
		return more
	}
	if from < cur.base {
		last, err := openLogFile(path+logSuffixLast, os.O_RDONLY)
		if err == nil {
			defer last.f.Close()
		}
		if err == nil && last.base < cur.base {
			if from, err = last.read(from, record); err != nil || !more {
				return from, err
			}
		}
	}
	return cur.read(from, record)
}
