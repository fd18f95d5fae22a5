//go:build darwin && cgo

package vz

var _ keeper = (*appleMachine)(nil)

func (m *appleMachine) save(path string) error    { return m.SaveMachineStateToPath(path) }
func (m *appleMachine) restore(path string) error { return m.RestoreMachineStateFromURL(path) }
