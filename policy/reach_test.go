package policy

import "testing"

func TestMayReach(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		rules, destination string
		want               bool
	}{
		{"allow public", "a.test", true},
		{"allow a.test", "a.test", true},
		{"allow a.test tcp 443", "a.test", true},
		{"allow a.test udp", "a.test", false},
		{"allow a.test", "b.test", false},
		{"allow a.test", ".a.test", false},
		{"allow x.a.test", ".a.test", true},
		{"allow .x.a.test", ".a.test", true},
		{"allow .test", ".a.test", true},
		{"allow .a.test", "a.test", false},
		{"allow .b.test", ".a.test", false},
		{"allow host udp 53; allow 1.1.1.1", "a.test", true},
		{"allow host tcp 53; allow 1.1.1.1", "a.test", true},
		{"deny a.test; allow public", "a.test", false},
		{"deny a.test tcp 443; allow public", "a.test", true},
		{"deny a.test tcp; allow public", "a.test", false},
		{"deny .a.test; allow public", ".a.test", false},
		{"deny x.a.test; allow public", ".a.test", true},
		{"deny x.a.test; allow .x.a.test", ".a.test", true},
		{"deny *; allow public", "a.test", false},
		{"allow public tcp 53; deny host", "a.test", true},
		{"allow 1.1.1.1", "a.test", false}, // no query, no name
		{"allow host udp,tcp 53; allow 1.1.1.1", "a.test", true},
		{"allow host udp,tcp 53", "a.test", false}, // no answer may hold the gateway
		{"allow host udp,tcp 53; allow host 80", "a.test", true},
		{"allow host udp,tcp 53; allow * tcp 80; deny public", "a.test", true},
		{"deny public; allow * tcp 80", "a.test", true},               // at a private address
		{"deny public; deny private; allow * tcp 80", "a.test", true}, // at a link-local one
		{"deny public; allow a.test", "a.test", false},
		{"deny public; allow a.test; rebind off", "a.test", true},
		{"deny public; deny private; deny link-local; allow * tcp 80", "a.test", false},
		{"allow host tcp 80", "host.docker.internal", true},
		{"allow host udp 80", "host.docker.internal", false},
		{"allow public", "host.docker.internal", false},
		{"allow private", "10.0.0.5", true},
		{"allow public", "10.0.0.5", false},
		{"default allow", "127.0.0.1", false},
		{"default allow", "*", true},
		{"", "*", false},
	} {
		d, err := ParseDestination(row.destination)
		if err != nil {
			t.Fatal(err)
		}
		if got := parsePolicy(t, row.rules).MayReach(d); got != row.want {
			t.Errorf("%s: %s: %v, want %v", row.rules, row.destination, got, row.want)
		}
	}
	var none *Policy
	if none.MayReach(DomainDestination("a.test")) {
		t.Error("a nil policy reaches a name")
	}
}
