//go:build linux && !amd64 && !arm64

package confine

// auditArch is 0: the filter has not been made for this architecture.
const auditArch = 0

// refusedHere is empty, as the filter is never installed.
var refusedHere []uint32
