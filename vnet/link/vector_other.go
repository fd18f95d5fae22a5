//go:build !linux && !darwin

package link

import "io"

// vectorWriter; see vector.go. Here there is none: the flusher writes.
type vectorWriter struct{}

func newVectorWriter(io.Writer) *vectorWriter            { return nil }
func (*vectorWriter) write(pieces [][]byte) (int, error) { return 0, errFull }
