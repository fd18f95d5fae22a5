//go:build !race

package sandbox

// maxMemory bounds the private memory of a sandbox's process, in bytes. An idle
// one has 8 MiB; all that a guest can fill by the default limits is below a
// quarter of this. In a program with the race detector (memory_race.go), whose
// sandboxes have it too, that takes ten times as much.
const maxMemory = 1 << 30
