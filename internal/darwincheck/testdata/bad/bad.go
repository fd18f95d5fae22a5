// Package bad is right everywhere but on macOS with cgo.
package bad
