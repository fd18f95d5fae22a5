package link_test

import (
	"fmt"
	"net"

	"github.com/sluicenet/sluice/vnet/link"
)

// The two ends of a card over a byte stream, as QEMU has it. With a hypervisor's
// descriptor it would be [link.Open], and [link.Pair] to make one.
func ExampleOpenConn() {
	a, b := net.Pipe()
	ours, guests := link.OpenConn(a), link.OpenConn(b)
	defer ours.Close()
	defer guests.Close()

	frame := link.Frame{Data: []byte("a header of 14 bytes"), More: [][]byte{[]byte(", and a payload")}}
	if _, err := ours.WriteFrames([]link.Frame{frame}); err != nil {
		fmt.Println(err)
		return
	}
	frames := make([]link.Frame, 8)
	n, err := guests.ReadFrames(frames)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range frames[:n] {
		fmt.Printf("%s\n", f.Data)
	}
	// Output: a header of 14 bytes, and a payload
}
