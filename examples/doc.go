// Package examples holds programs to begin from, one a directory:
//
//	agent  a command with one API, and a key for it that it never sees
//	ask    a command whose every new destination is asked about
//	serve  a server that is reached and reaches nothing
//	ci     a step of a CI, by the command line alone
//
// README.md says how to run them; the tests of this package do it. What a single
// call does is shown by the examples of package sdk.
package examples
