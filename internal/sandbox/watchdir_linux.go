package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watchDir calls changed, from one goroutine, when a file in dir has been
// created, removed or touched, until ctx ends; the channel is closed when that
// goroutine has ended.
func watchDir(ctx context.Context, dir string, changed func()) (<-chan struct{}, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch directory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ATTRIB|unix.IN_ONLYDIR); err != nil {
		return nil, errors.Join(fmt.Errorf("watch directory %q: %w", dir, err), f.Close())
	}
	done := make(chan struct{})
	go followFile(ctx, f, changed, done)
	return done, nil
}
