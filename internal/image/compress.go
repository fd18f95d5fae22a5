package image

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdWindow bounds the memory that a zstd frame may ask for: what the format
// tells decoders to support is 8 MiB, and zstd's own --ultra goes to 128 MiB.
const zstdWindow = 128 << 20

// A compression is how a blob is compressed.
type compression int

const (
	uncompressed compression = iota
	gzipped                  // RFC 1952
	zstandard                // RFC 8878
)

// compressionOf returns the compression that the first bytes of a blob tell:
// media types are often wrong.
func compressionOf(magic []byte) compression {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstandard
	}
	return uncompressed
}

// A meter reads a compressed stream, and compares what it took in with what
// came out. It is not for concurrent use.
type meter struct {
	src    io.Reader
	limits Limits         // Ratio and RatioFree of them
	report func(in int64) // told of every read; nil is not

	in     int64 // bytes read from src
	out    int64 // bytes of the stream
	files  int64 // bytes of the files in it, holes included
	broken error // why src could not be read on; io.EOF is no reason
}

// Read reads the compressed stream.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.src.Read(p)
	m.in += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.broken = err
	}
	if m.report != nil {
		m.report(m.in)
	}
	return n, err
}

// check reports whether n bytes are more than may have come out.
func (m *meter) check(n int64) error {
	if n-m.limits.RatioFree > m.in*m.limits.Ratio {
		return refused("%d bytes unpack to more than %d times as many", m.in, m.limits.Ratio)
	}
	return nil
}

// expand counts n bytes of files.
func (m *meter) expand(n int64) error {
	m.files += n
	return m.check(m.files)
}

// blame returns err, of who decodes the stream, as a fault of the stream; unless
// it could not be read, or there is no fault.
func (m *meter) blame(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, ErrContent):
		return err
	case m.broken != nil:
		return m.broken
	}
	return refused("%v", err)
}

// A meteredReader is the decompressed stream.
type meteredReader struct {
	io.ReadCloser
	m *meter
}

// Read reads as far as the bound on the ratio allows.
func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.m.out += int64(n)
	if err := r.m.check(r.m.out); err != nil {
		return n, err
	}
	return n, r.m.blame(err)
}

// decompress returns the content of what m reads. The caller closes it.
func decompress(m *meter) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(m, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var content io.ReadCloser
	switch compressionOf(magic) {
	case gzipped:
		content, err = gzip.NewReader(b)
	case zstandard:
		// A concurrency of 1 decodes in the reader's goroutine.
		var d *zstd.Decoder
		d, err = zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err == nil {
			content = d.IOReadCloser()
		}
	default:
		content, err = io.NopCloser(b), nil
	}
	if err != nil {
		return nil, m.blame(err)
	}
	return &meteredReader{content, m}, nil
}
