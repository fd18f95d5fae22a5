//go:build !linux

package link

// See guest_linux_test.go.
const guestArg = "link-test-guest"

func guestMain() {}
