package sandbox

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long announcements must have paused before they are acted on:
// a network that comes up changes a dozen routes within milliseconds.
const settle = 50 * time.Millisecond

// followFile calls changed whenever announcements have come from f and paused,
// until ctx ends; then it closes f and done. What they say is not looked at, so
// losing some (ENOBUFS) loses nothing.
func followFile(ctx context.Context, f *os.File, changed func(), done chan<- struct{}) {
	defer close(done)
	stop := context.AfterFunc(ctx, func() { f.Close() }) // wakes Read
	defer stop()
	defer f.Close()
	buf := make([]byte, 64<<10)
	pending := false
	for {
		_, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			pending = false
			if f.SetReadDeadline(time.Time{}) != nil {
				return
			}
			changed()
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return
		}
		if !pending && f.SetReadDeadline(time.Now().Add(settle)) != nil {
			return
		}
		pending = true
	}
}
