// Package seccomp makes filters of system calls, for processes that a guest may get
// hold of: what each refuses anyway is New's, the rest is added by Filter.On, and
// Filter.Install puts the process under it.
//
// A filter is of what is refused, not of what is allowed: which calls a program
// makes changes with its libraries. So that a call which nobody has looked at
// doesn't pass, the numbers behind the last reviewed one don't exist.
//
// Only Linux has them; elsewhere the package is empty. It won't look behind
// pointers, as no filter can, or know what a descriptor is.
package seccomp
