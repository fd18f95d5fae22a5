//go:build !linux

package guest

// See init_linux_test.go: elsewhere nothing is started with this name.
const initRole = "guest-test:init"

func initMain() {}
