package krun

import (
	"bufio"
	"context"
	"io"
	"log/slog"

	"github.com/sluicenet/sluice/hv/internal/tail"
)

const (
	// maxLine bounds a line of libkrun's log in bytes; the rest of a longer one
	// counts as the next.
	maxLine = 4 << 10
	// maxLines bounds the lines of one VM's log that are passed on. A guest can
	// make its devices complain at every request.
	maxLines = 1000
)

// copyLog passes the lines of libkrun's log on until its end, and keeps the last
// in t. It always reads on: a log that isn't read would stop the VM.
func copyLog(log *slog.Logger, r io.Reader, t *tail.Tail) {
	in := bufio.NewReaderSize(r, maxLine)
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			_, _ = t.Write(line)
			switch {
			case n < maxLines:
				log.LogAttrs(context.Background(), slog.LevelDebug, "libkrun", slog.String("says", tail.Printable(string(line))))
			case n == maxLines:
				log.Warn("libkrun says more than is passed on", "lines", maxLines)
			}
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}
