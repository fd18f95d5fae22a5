//go:build race

package sandbox

const maxMemory = 16 << 30
