package control

import (
	"runtime/debug"
	"strconv"
	"strings"
)

// revision changes whenever what crosses the border changes incompatibly, so
// that two development builds that can't speak with each other say so.
const revision = 1

const modulePath = "github.com/sluicenet/sluice"

// Build identifies the sluice that this executable contains: a released
// version, or "devel" where only revision can be compared. A creator and its
// sandbox's process must have the same.
func Build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return buildID("")
	}
	if info.Main.Path == modulePath {
		return buildID(info.Main.Version)
	}
	for _, dep := range info.Deps {
		if dep.Path == modulePath && dep.Replace == nil {
			return buildID(dep.Version)
		}
	}
	return buildID("")
}

// buildID turns a module's version into a build's identity. Pseudo-versions and
// versions of changed trees are development builds: the same checkout gives
// go build one, and go test none.
func buildID(version string) string {
	if !strings.HasPrefix(version, "v") || strings.ContainsAny(version, "-+") {
		version = "devel"
	}
	return version + "/" + strconv.Itoa(revision)
}
