//go:build linux && !amd64

package confine

// refusedHere is empty: newer architectures have none of the older calls.
var refusedHere []uint32
