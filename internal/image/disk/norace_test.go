//go:build !race

package disk

// manyFiles are as many as the largest images have.
const manyFiles = 200_000
