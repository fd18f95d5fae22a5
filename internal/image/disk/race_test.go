//go:build race

package disk

// manyFiles are fewer than in norace_test.go: the race detector takes seven times
// as long.
const manyFiles = 20_000
