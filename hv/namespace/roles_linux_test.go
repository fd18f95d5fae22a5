package namespace

// roles are what this binary is besides a test, by argv[0].
var roles = map[string]func(){Role: Main, insideRole: insideMain, hostRole: hostMain}
