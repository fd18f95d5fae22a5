//go:build !race

package guest

// slowdown is how much slower tests of speed may be.
const slowdown = 1
