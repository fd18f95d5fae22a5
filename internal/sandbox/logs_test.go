package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicenet/sluice/hv/hvtest"
	"github.com/sluicenet/sluice/internal/control"
)

// testLog returns a logger of a test's own.
func testLog(t *testing.T, path string, limit int64) *logger {
	t.Helper()
	l, err := newLogger(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// texts returns the data of the entries that a query gives, in order, and the
// last cursor.
func texts(t *testing.T, path string, q control.LogQuery) (string, string) {
	t.Helper()
	f, err := newLogFilter(q)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	cursor := q.From
	_, err = f.read(path, func(entries []control.LogEntry) error {
		for _, e := range entries {
			all = append(all, string(e.Data))
			cursor = e.Cursor
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " "), cursor
}

// TestLogQueries checks what each part of a query selects.
func TestLogQueries(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	l := testLog(t, path, maxLogFile)
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for i, r := range []struct {
		source string
		text   string
	}{{control.LogSystem, "a"}, {control.LogStdout, "b"}, {control.LogStderr, "c"}, {control.LogStdout, "d"}, {control.LogOutput, "e"}} {
		l.append(r.source, uint64(i), at(i), []byte(r.text))
	}
	l.close()
	l.append(control.LogStdout, 9, at(9), []byte("late"))
	_, second := texts(t, path, control.LogQuery{Until: at(2)})
	for _, tt := range []struct {
		name string
		q    control.LogQuery
		want string
	}{
		{"all", control.LogQuery{}, "a b c d e"},
		{"tail", control.LogQuery{Tail: 2}, "d e"},
		{"tail of everything", control.LogQuery{Tail: 9}, "a b c d e"},
		{"since", control.LogQuery{Since: at(3)}, "d e"},
		{"until", control.LogQuery{Until: at(3)}, "a b c"},
		{"both", control.LogQuery{Since: at(1), Until: at(3)}, "b c"},
		{"sources", control.LogQuery{Sources: []string{control.LogStdout, control.LogSystem}}, "a b d"},
		{"tail of a source", control.LogQuery{Sources: []string{control.LogStdout}, Tail: 1}, "d"},
		{"from a cursor", control.LogQuery{From: second}, "c d e"},
		{"from the end", control.LogQuery{From: "999999"}, ""},
	} {
		if got, _ := texts(t, path, tt.q); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	for _, q := range []control.LogQuery{{Sources: []string{"stdin"}}, {From: "x"}, {From: "-1"}} {
		if _, err := newLogFilter(q); kind(err) != control.KindArgument {
			t.Errorf("%+v: %v", q, err)
		}
	}
	if got, _ := texts(t, path+"x", control.LogQuery{}); got != "" {
		t.Errorf("no log: %q", got)
	}
}

// TestLogRotates checks that a log keeps its last records, that cursors stay
// valid, and that a reader misses nothing that is kept.
func TestLogRotates(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	l := testLog(t, path, 1000)
	var last string
	for i := range 200 {
		l.append(control.LogStdout, 1, time.Unix(0, 0), fmt.Appendf(nil, "%03d", i))
		last = fmt.Sprintf("%03d", i)
	}
	l.close()
	got, _ := texts(t, path, control.LogQuery{})
	words := strings.Fields(got)
	if n := len(words); n < 1000/25 || n > 2*1000/24 || words[n-1] != last {
		t.Fatalf("%d records, the last %q", n, words[n-1])
	}
	for i, w := range words { // without a gap
		if want := fmt.Sprintf("%03d", 200-len(words)+i); w != want {
			t.Fatalf("record %d is %q, want %q", i, w, want)
		}
	}
	cursor := "0" // of what was dropped long ago
	for i := range words {
		rest, _ := texts(t, path, control.LogQuery{From: cursor})
		if rest != strings.Join(words[i:], " ") {
			t.Fatalf("from %s: %q", cursor, rest)
		}
		f, _ := newLogFilter(control.LogQuery{From: cursor})
		_, _ = readLog(path, f.from, func(r logRecord) bool { cursor = r.entry().Cursor; return false })
	}
}

// TestLogGoesOn checks that a log goes on behind its last whole record, and that
// what is no log, or a damaged one, is begun anew.
func TestLogGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tt := range []struct {
		name   string
		damage func(path string, text []byte) error
		want   string
	}{
		{"whole", func(string, []byte) error { return nil }, "one two three"},
		{"cut", func(p string, b []byte) error { return os.WriteFile(p, b[:len(b)-1], 0o600) }, "one three"},
		{"cut in the head", func(p string, b []byte) error { return os.WriteFile(p, b[:len(b)-10], 0o600) }, "one three"},
		{"damaged", func(p string, b []byte) error { b[logHeader] = 0xff; return os.WriteFile(p, b, 0o600) }, "three"},
		{"another file", func(p string, _ []byte) error { return os.WriteFile(p, []byte("hello"), 0o600) }, "three"},
		{"no file", func(p string, _ []byte) error { return os.Remove(p) }, "three"},
	} {
		path := filepath.Join(dir, tt.name)
		l := testLog(t, path, maxLogFile)
		l.append(control.LogStdout, 1, time.Unix(1, 0), []byte("one"))
		l.append(control.LogStdout, 1, time.Unix(2, 0), []byte("two"))
		l.close()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.damage(path, text); err != nil {
			t.Fatal(err)
		}
		l = testLog(t, path, maxLogFile)
		l.append(control.LogStdout, 2, time.Unix(3, 0), []byte("three"))
		l.close()
		if got, _ := texts(t, path, control.LogQuery{}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if _, err := newLogger(filepath.Join(dir, "no", "dir"), 1); err == nil {
		t.Error("a log in a directory that isn't there")
	}
}

// TestLogFollows checks that who follows gets everything once, in order, while
// it is written and rotated, up to the end.
func TestLogFollows(t *testing.T) {
	t.Parallel()
	s := &Sandbox{output: testLog(t, filepath.Join(t.TempDir(), "log"), 2000)}
	var got []string
	ready := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		err := s.Logs(t.Context(), control.LogQuery{Follow: true}, func(entries []control.LogEntry) error {
			if len(got) == 0 && len(entries) > 0 {
				close(ready)
			}
			for _, e := range entries {
				got = append(got, string(e.Data))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	s.output.append(control.LogStdout, 1, time.Now(), []byte("first"))
	<-ready
	for i := range 20 {
		s.output.append(control.LogStdout, 1, time.Now(), fmt.Append(nil, i))
	}
	s.output.close()
	reader.Wait()
	if text := strings.Join(got, " "); text != "first 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19" {
		t.Errorf("followed %q", text)
	}
	told := 0
	drop := func(entries []control.LogEntry) error {
		told++
		return nil
	}
	other := &Sandbox{output: testLog(t, filepath.Join(t.TempDir(), "log"), 2000)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := other.Logs(ctx, control.LogQuery{Follow: true}, drop); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("follow nothing: %v", err)
	}
	if told == 0 {
		t.Error("who follows an empty log isn't told that it is")
	}
	if err := other.Logs(t.Context(), control.LogQuery{Follow: true, Until: time.Now().Add(20 * time.Millisecond)}, drop); err != nil {
		t.Errorf("follow a silent log until soon: %v", err)
	}
	if err := other.Logs(t.Context(), control.LogQuery{Follow: true, Until: time.Unix(1, 0)}, drop); err != nil {
		t.Errorf("follow until long ago: %v", err)
	}
}

// TestLogsOf checks the log of a sandbox that is kept.
func TestLogsOf(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	e := embed(t, dirs, "kept", &hvtest.Fake{}, testConfig{Keep: true})
	e.s.output.append(control.LogStdout, 1, time.Now(), []byte("hello"))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	var got []byte
	collect := func(entries []control.LogEntry) error {
		for _, e := range entries {
			if e.Source == control.LogStdout {
				got = append(got, e.Data...)
			}
		}
		return nil
	}
	if err := Logs(dirs, "kept", control.LogQuery{}, collect); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if err := Logs(dirs, "none", control.LogQuery{}, collect); kind(err) != control.KindNotFound {
		t.Errorf("no sandbox: %v", err)
	}
	if err := Logs(dirs, "kept", control.LogQuery{From: "x"}, collect); kind(err) != control.KindArgument {
		t.Errorf("no cursor: %v", err)
	}
}

// FuzzLogRecord checks that what reads as records is written the same way, and
// that nothing else than records comes out of any file.
func FuzzLogRecord(f *testing.F) {
	f.Add(appendRecord(nil, logRecord{source: 1, session: 7, at: time.Unix(1, 2), data: []byte("x")}))
	f.Add([]byte{0, 0, 0, 17, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, at := bytes.NewReader(in), int64(0)
		for {
			rec, err := readRecord(r, at)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, errPartial) && !strings.Contains(err.Error(), "damaged") {
					t.Fatal(err)
				}
				return
			}
			if again := appendRecord(nil, rec); !bytes.Equal(again, in[at:rec.end]) {
				t.Fatalf("read %x, wrote %x", in[at:rec.end], again)
			}
			at = rec.end
		}
	})
}
