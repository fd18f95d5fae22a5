package vz

import (
	"context"
	"os"
	"path/filepath"
)

// findAgent returns a Linux executable that is a guest's process 1: the agent's
// program beside this one.
func findAgent(context.Context) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "sluice-agent")
	_, err = os.Stat(path)
	return path, err
}
