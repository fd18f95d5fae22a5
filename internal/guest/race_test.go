//go:build race

package guest

// slowdown is how much slower tests of speed may be: the race detector watches.
const slowdown = 8
