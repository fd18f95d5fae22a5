//go:build !linux

package vnet

import (
	"testing"

	"github.com/sluicenet/sluice/vnet/link"
)

// withoutStack leaves l alone: every flow goes through the stack here.
func withoutStack(_ *testing.T, l link.Link) link.Link { return l }
