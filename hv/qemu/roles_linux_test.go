package qemu

// roles are what a test's executable is run again for.
var roles = map[string]func(){Role: Main, hostRole: host}
