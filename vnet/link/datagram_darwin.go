package link

import "os"

// batches returns how datagrams are read and sent here: one by one. See
// datagram_linux.go.
func batches(f *os.File, d *datagram, cfg Config) (frameReader, recordSender, error) {
	in, err := newSingleReader(f, d, cfg)
	return in, oneByOne{}, err
}
