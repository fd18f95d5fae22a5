package sniff

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frame returns a frame of HTTP/2.
func frame(typ, flags byte, stream uint32, payload string) string {
	b := []byte(u24(payload)[:3])
	b = append(b, typ, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return string(b) + payload
}

// block returns the fields, given as name and value in turn, in HPACK without
// use of the dynamic table.
func block(fields ...string) string {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true})
	}
	return b.String()
}

// to returns the field block of a request to authority with further fields.
func to(authority string, fields ...string) string {
	return block(append([]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", authority}, fields...)...)
}

// headers returns a HEADERS frame with a whole field block.
func headers(stream uint32, block string) string {
	return frame(frameHeaders, flagEndHeaders, stream, block)
}

func TestStreams(t *testing.T) {
	t.Parallel()
	const dataFrame, priorityFrame = 0, 2
	settings := frame(frameSettings, 0, 0, "")
	a := to("a.example")
	required := []string{":method", "GET", ":scheme", "http", ":path", "/"}
	for _, row := range []struct {
		name string
		in   []string // pieces behind the preface, numbered from 1
		want string
	}{
		{"request", []string{settings, headers(1, a)}, "2 http2 a.example"},
		{"two requests", []string{headers(1, a), headers(3, to("B.example.:80"))}, "1 http2 a.example, 2 http2 b.example"},
		{"no authority", []string{headers(1, block(required...))}, "1 http2 "},
		{"no authority, but Host", []string{headers(1, block(append(required, "host", "a.example")...))}, "1 http2 a.example"},
		{"authority and Host", []string{headers(1, to("a.example", "host", "A.EXAMPLE"))}, "1 http2 a.example"},
		{"authority is the address", []string{headers(1, to("203.0.113.7:80"))}, "1 http2 "},
		{"data and trailers", []string{headers(1, a), frame(dataFrame, 0, 1, "hello"), headers(1, block("x", "y")), headers(3, a)}, "1 http2 a.example, 4 http2 a.example"},
		{"continued", []string{frame(frameHeaders, 0, 1, a[:3]), frame(frameContinuation, 0, 1, a[3:4]), frame(frameContinuation, flagEndHeaders, 1, a[4:])}, "1 http2 a.example"},
		{"padded, with priority", []string{frame(frameHeaders, flagEndHeaders|flagPadded|flagPriority, 1, "\x03"+"\x00\x00\x00\x00\x10"+a+"\x00\x00\x00")}, "1 http2 a.example"},
		{"ended within data", []string{headers(1, a), frame(dataFrame, 0, 1, "hello")[:12]}, "1 http2 a.example"},
		{"before the request", []string{settings, frame(framePing, 0, 0, "12345678"), frame(frameWindowUpdate, 0, 0, "\x00\x00\x00\x01")}, ""},
		{"unknown frame behind a request", []string{headers(1, a), frame(0xfa, 0, 0, strings.Repeat("x", maxFrame+1))}, "1 http2 a.example"},

		{"data before the request", []string{frame(dataFrame, 0, 1, "hello")}, "1 malformed: HTTP/2 frame before the first request"},
		{"priority before the request", []string{frame(priorityFrame, 0, 1, "12345")}, "1 malformed: HTTP/2 frame before the first request"},
		{"long settings before the request", []string{frame(frameSettings, 0, 0, strings.Repeat("x", maxFrame+1))}, "1 malformed: HTTP/2 frame before the first request"},
		{"push promise", []string{headers(1, a), frame(framePushPromise, flagEndHeaders, 1, a)}, "1 http2 a.example, 2 malformed: HTTP/2 frame out of place"},
		{"continuation of nothing", []string{frame(frameContinuation, flagEndHeaders, 1, a)}, "1 malformed: HTTP/2 frame out of place"},
		{"block interrupted", []string{frame(frameHeaders, 0, 1, a[:3]), settings}, "1 malformed: HTTP/2 field block interrupted"},
		{"block continued on another stream", []string{frame(frameHeaders, 0, 1, a[:3]), frame(frameContinuation, flagEndHeaders, 3, a[3:])}, "1 malformed: HTTP/2 field block interrupted"},
		{"empty continuation", []string{frame(frameHeaders, 0, 1, a), frame(frameContinuation, 0, 1, "")}, "1 malformed: HTTP/2 field block of a forbidden length"},
		{"long block", []string{frame(frameHeaders, 0, 1, strings.Repeat("x", maxFrame+1))}, "1 malformed: HTTP/2 field block of a forbidden length"},
		{"endless block", []string{frame(frameHeaders, 0, 1, a), strings.Repeat(frame(frameContinuation, 0, 1, strings.Repeat("x", maxFrame)), 4)}, "1 malformed: longer than 64 KiB"},
		{"short block of long fields", []string{headers(1, a+"\x40"+block("x", strings.Repeat("y", 4000))[1:]+strings.Repeat("\xbe", 1000))}, "1 malformed: longer than 64 KiB"},
		{"block that ends early", []string{headers(1, a[:len(a)-1])}, "1 malformed: HTTP/2 field block can't be decoded"},
		{"no such entry in the table", []string{headers(1, "\xff\x20")}, "1 malformed: HTTP/2 field block can't be decoded"},
		{"padding beyond the frame", []string{frame(frameHeaders, flagEndHeaders|flagPadded, 1, "\xff"+a)}, "1 malformed: HTTP/2 field block can't be decoded"},
		{"priority beyond the frame", []string{frame(frameHeaders, flagEndHeaders|flagPriority, 1, "1234")}, "1 malformed: HTTP/2 field block can't be decoded"},
		{"ended within a frame's header", []string{settings, settings[:5]}, "2 malformed: ended within a frame"},
		{"ended within a block", []string{settings, headers(1, a)[:20]}, "2 malformed: ended within a frame"},
		{"priority and nothing else", []string{frame(frameHeaders, flagEndHeaders|flagPriority, 1, "12345")}, "1 malformed: HTTP/2 request without method, scheme or path"},
		{"stream 0", []string{headers(0, a)}, "1 malformed: HTTP/2 stream that no client may open"},
		{"stream 2", []string{headers(2, a)}, "1 malformed: HTTP/2 stream that no client may open"},
		{"trailers with an authority", []string{headers(3, a), headers(1, a)}, "1 http2 a.example, 2 malformed: HTTP/2 trailers aren't well-formed"},
		{"trailers with a bad field", []string{headers(1, a), headers(1, block("x", "\n"))}, "1 http2 a.example, 2 malformed: HTTP/2 trailers aren't well-formed"},

		{"two authorities", []string{headers(1, to("a.example", ":authority", "b.example"))}, "1 malformed: HTTP/2 pseudo-header field out of place"},
		{"authority behind a field", []string{headers(1, block(append(required, "x", "y", ":authority", "a.example")...))}, "1 malformed: HTTP/2 pseudo-header field out of place"},
		{"authority and another Host", []string{headers(1, to("a.example", "host", "b.example"))}, "1 malformed: HTTP/2 authority and Host field name different hosts"},
		{"authority and an empty Host", []string{headers(1, to("a.example", "host", ""))}, "1 malformed: HTTP/2 authority and Host field name different hosts"},
		{"two Hosts", []string{headers(1, to("a.example", "host", "a.example", "host", "a.example"))}, "1 malformed: more than one Host field"},
		{"bad authority", []string{headers(1, to("u@a.example"))}, "1 malformed: HTTP/2 authority isn't a host"},
		{"bad Host", []string{headers(1, to("a.example", "host", "a/b"))}, "1 malformed: Host field isn't a host"},
		{"authority is another address", []string{headers(1, to("203.0.113.8"))}, "1 malformed: authority is the address of another host"},
		{"no path", []string{headers(1, block(":method", "GET", ":scheme", "http", ":authority", "a.example"))}, "1 malformed: HTTP/2 request without method, scheme or path"},
		{"CONNECT", []string{headers(1, block(":method", "CONNECT", ":authority", "a.example:443"))}, "1 malformed: CONNECT within HTTP/2"},
		{"extended CONNECT", []string{headers(1, to("a.example", ":protocol", "connect-udp"))}, "1 malformed: unknown HTTP/2 pseudo-header field"},
		{"upper case", []string{headers(1, to("a.example", "X", "y"))}, "1 malformed: HTTP/2 field without a proper name"},
		{"empty name", []string{headers(1, to("a.example", "", "y"))}, "1 malformed: HTTP/2 field without a proper name"},
		{"line in a value", []string{headers(1, to("a.example", "x", "y\r\nhost: b.example"))}, "1 malformed: HTTP/2 field value holds a forbidden byte"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			in := preface + strings.Join(row.in, "")
			step := 1 + len(in)/300 // each n, but for very long rows
			for n := 1; n <= len(in); n += step {
				if got := inPieces(follow(in, n), row.in); got != row.want {
					t.Fatalf("%d bytes at a time: %.200q\n got %s\nwant %s", n, in, got, row.want)
				}
			}
			checkRequests(t, []byte(in))
		})
	}
}

// inPieces tells what happened behind the preface by the piece that it begins
// with, "+" if within it, and leaves out an end behind the last.
func inPieces(events []event, pieces []string) string {
	var story []string
	for _, e := range events[1:] {
		piece, at := 0, len(preface)
		for piece < len(pieces) && at+len(pieces[piece]) <= e.at {
			at += len(pieces[piece])
			piece++
		}
		if e.what == "end" && piece == len(pieces) {
			continue
		}
		where := fmt.Sprint(piece + 1)
		if at != e.at {
			where += "+"
		}
		story = append(story, where+" "+e.what)
	}
	return strings.Join(story, ", ")
}

// The dynamic table of a connection carries names from one request to the next.
func TestStreamsTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	next := func(authority string) string {
		b.Reset()
		for _, f := range []string{":method GET", ":scheme http", ":path /", ":authority " + authority} {
			name, value, _ := strings.Cut(f, " ")
			e.WriteField(hpack.HeaderField{Name: name, Value: value})
		}
		return b.String()
	}
	pieces := []string{headers(1, next("a.example")), headers(3, next("b.example")), headers(5, next("a.example"))}
	if again := pieces[2][frameHeaderLen:]; len(again) > 4 {
		t.Fatalf("the encoder doesn't use its table: %q", again)
	}
	// A table beyond what we allow.
	e.SetMaxDynamicTableSizeLimit(maxTable + 1)
	e.SetMaxDynamicTableSize(maxTable + 1)
	pieces = append(pieces, headers(7, next("a.example")))
	in := preface + strings.Join(pieces, "")
	want := "1 http2 a.example, 2 http2 b.example, 3 http2 a.example, 4 malformed: HTTP/2 field block can't be decoded"
	if got := inPieces(follow(in, 10), pieces); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	checkRequests(t, []byte(in))
}

func TestCapturedHTTP2(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/head/curl-h2c.bin")
	if err != nil {
		t.Fatal(err)
	}
	events := follow(string(b), 1)
	if len(events) != 3 || events[1].what != "http2 www.example.com" || events[2] != (event{"end", len(b)}) {
		t.Errorf("got %v", events)
	}
	checkRequests(t, b)
}

// http2Requests returns the requests that x/net/http2 reads in a stream behind
// the preface, until it ends or fails.
func http2Requests(stream []byte) (found []request) {
	source := bytes.NewReader(stream[len(preface):])
	framer := http2.NewFramer(nil, source)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(maxTable)
	seen := uint32(0)
	for {
		at := len(stream) - source.Len()
		f, err := framer.ReadFrame()
		if err != nil {
			return found
		}
		meta, ok := f.(*http2.MetaHeadersFrame)
		if !ok || meta.StreamID <= seen {
			continue
		}
		seen = meta.StreamID
		authority := meta.PseudoValue("authority")
		for _, field := range meta.RegularFields() {
			if field.Name == "host" && authority == "" {
				authority = field.Value
			}
		}
		found = append(found, request{at, canonicalHost(authority)})
	}
}
