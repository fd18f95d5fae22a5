//go:build !linux && !darwin

package link

func platformMedia() []medium { return nil }

func outboxOf(l Link) *outbox { return &l.(*stream).out }
