package link

import "os"

// batches returns how datagrams are read and sent here: one by one. See
// datagram_linux.go.
func batches(f *os.File, d *datagram) (frameReader, recordSender, error) {
	in, err := newPacketReader(f, 0, &d.drops)
	return in, oneByOne{}, err
}
