//go:build !linux

package sandbox

// becomeCreator does nothing: the test that needs creators is Linux's.
func becomeCreator() {}
