//go:build darwin && cgo

package vz

var _ keeper = (*appleMachine)(nil)

func (m *appleMachine) save(path string) error {
	return explain(m.SaveMachineStateToPath(path), 14)
}

func (m *appleMachine) restore(path string) error {
	return explain(m.RestoreMachineStateFromURL(path), 14)
}
