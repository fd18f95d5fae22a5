package sluice_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluicenet/sluice"

// allowed says what each package may import beside the standard library, and why.
// Ours are named by their exact path in the module; others by a prefix. A package
// that isn't here is an error: say what it needs when it is made.
//
// The shape behind the lines: policy is the leaf that everybody may import; hv,
// vnet, dns and mitm never import each other; internal/sandbox is the only place
// where they meet.
var allowed = map[string]map[string]string{
	".": {
		"hv":           "the table of hypervisors holds hv.Hypervisor",
		"hv/krun":      "a row of the table",
		"hv/namespace": "a row of the table",
		"hv/qemu":      "a row of the table",
		"hv/vz":        "a row of the table",
	},
	"policy": {
		"github.com/gaissmai/bart": "prefix tables that grow",
		"golang.org/x/net/idna":    "names in a configuration become A-labels",
	},
	"vnet/link": {
		"golang.org/x/sys": "batched system calls and the TAP's ioctls",
	},
	"vnet": {
		"policy":                       "decides",
		"vnet/link":                    "carries the frames",
		"internal/holder":              "says who holds a port",
		"internal/lru":                 "finds the oldest in its tables",
		"internal/sniff":               "finds a name in first bytes",
		"gvisor.dev/gvisor/pkg/buffer": "packets of the stack",
		"gvisor.dev/gvisor/pkg/refs":   "its leak check, in tests",
		"gvisor.dev/gvisor/pkg/tcpip":  "the TCP stack",
		"gvisor.dev/gvisor/pkg/waiter": "its notifications",
		"github.com/insomniacslk/dhcp": "answers DHCP",
		"golang.org/x/sys":             "socket options, batches of datagrams, routes",
		"golang.org/x/net/ipv4":        "which address a datagram was sent to",
		"golang.org/x/net/ipv6":        "which address a datagram was sent to",
		"golang.org/x/time/rate":       "bounds on new flows and errors",
	},
	"dns": {
		"policy":                 "permission and the class of an answer's addresses",
		"internal/lru":           "finds the oldest in its tables",
		"github.com/miekg/dns":   "messages, and nobody else's business",
		"golang.org/x/time/rate": "bounds on queries",
	},
	"mitm": {
		"policy":                         "decides each request",
		"internal/lru":                   "finds the oldest leaf",
		"internal/sniff":                 "finds a name in first bytes",
		"mitm/secret":                    "replaces placeholders, finds values",
		"golang.org/x/net/http/httpguts": "reads lists of tokens in headers",
		"golang.org/x/net/http2":         "HTTP/2 to servers",
		"golang.org/x/time/rate":         "bounds on new certificates",
	},
	"mitm/secret": {
		"policy": "names of hosts",
	},
	"hv": {
		"vnet/link": "the format of a guest's card",
	},
	"hv/internal/ends": {
		"hv":        "how a guest has ended",
		"vnet/link": "how frames travel",
	},
	"hv/internal/tail": {},
	"hv/hvtest": {
		"hv":                             "the suite is of its interface",
		"hv/internal/ends":               "with what all backends share",
		"vnet/link":                      "the fake's card is a link",
		"internal/guest":                 "the suite talks to the agent",
		"github.com/pkg/sftp":            "and to its file server, which is the fake's too",
		"github.com/vishvananda/netlink": "makes the card of a machine that is played",
		"golang.org/x/sys":               "and its namespaces",
	},
	"hv/namespace": {
		"hv":                             "implements it",
		"hv/internal/ends":               "hands over the guest's ends, waits for it",
		"vnet/link":                      "names its card's format",
		"internal/guest":                 "the guest's process 1 is the agent",
		"internal/seccomp":               "filters the guest's system calls",
		"github.com/vishvananda/netlink": "makes the guest's card",
		"golang.org/x/sys":               "namespaces, mounts, seccomp",
	},
	"hv/qemu": {
		"hv":                     "implements it",
		"hv/internal/ends":       "with what all backends share",
		"hv/internal/tail":       "keeps what a machine printed last",
		"vnet/link":              "names its card's format, makes its streams",
		"internal/guest":         "finds the agent, and asks it when probing",
		"internal/guest/kernel":  "what a guest boots",
		"internal/guest/machine": "what it tells then",
		"internal/image/disk":    "an empty root, when probing",
	},
	"hv/krun": {
		"C":                      "opens libkrun; the only cgo of ours",
		"hv":                     "implements it",
		"hv/internal/ends":       "with what all backends share",
		"hv/internal/tail":       "keeps what a machine printed last",
		"vnet/link":              "names its card's format, makes its streams",
		"internal/guest":         "puts the agent into the guest",
		"internal/guest/kernel":  "what a kernel's file is",
		"internal/guest/machine": "what it tells then",
		"internal/seccomp":       "takes sockets from the machine's process",
		"golang.org/x/sys":       "socket pairs, terminals",
	},
	"hv/vz": {
		"hv":                     "implements it",
		"hv/internal/ends":       "with what all backends share",
		"hv/internal/tail":       "keeps what a machine printed last",
		"vnet/link":              "names its card's format, makes its sockets",
		"internal/guest":         "puts the agent into the guest",
		"internal/guest/kernel":  "what a guest boots",
		"internal/guest/machine": "what it tells then",
		"github.com/Code-Hex/vz": "Virtualization.framework, and nobody else's business",
	},
	"internal/holder": {},
	"internal/lru":    {},
	"internal/sniff": {
		"golang.org/x/crypto/cryptobyte": "length-prefixed bytes, read without a slip",
		"golang.org/x/net/http2":         "HPACK, of an HTTP/2 head",
	},
	"internal/guest": {
		"github.com/pkg/sftp":            "files, over the agent's stream",
		"github.com/vishvananda/netlink": "gives the guest its addresses and routes",
		"golang.org/x/crypto":            "SSH multiplexes the agent's stream",
		"golang.org/x/sys":               "mounts, namespaces, terminals",
	},
	"internal/seccomp": {
		"golang.org/x/sys": "the numbers of system calls",
	},
	"internal/confine": {
		"internal/seccomp":        "filters the process's system calls",
		"github.com/landlock-lsm": "Landlock, on all threads",
		"golang.org/x/sys":        "seccomp, limits",
	},
	"internal/control": {
		"golang.org/x/sys": "the peer's credentials",
	},
	"internal/image/imagetest": {
		"github.com/google/go-containerregistry": "makes images",
	},
	"internal/image": {
		"github.com/google/go-containerregistry": "registries, and the documents they have",
		"github.com/klauspost/compress":          "gzip and zstd layers",
		"golang.org/x/sys":                       "file locks, extended attributes, FIFOs",
	},
	"internal/image/disk": {
		"internal/image":               "the files of a root",
		"internal/netlab":              "programs that its tests run",
		"github.com/Microsoft/hcsshim": "ext4 without mkfs",
	},
	"internal/guest/kernel": {
		"internal/image/disk":           "a disk to boot from, for a kernel without initramfs",
		"github.com/klauspost/compress": "modules as distributions pack them",
	},
	"internal/guest/machine": {
		"hv":               "the guest that a machine is to be",
		"internal/guest":   "process 1 becomes the agent",
		"golang.org/x/sys": "mounts, modules, a machine's end",
	},
	"internal/sandbox": {
		".":                              "opens the hypervisor by its name",
		"hv":                             "the one composer: a guest,",
		"hv/hvtest":                      "or a fake one in tests,",
		"vnet":                           "its network,",
		"vnet/link":                      "its card,",
		"dns":                            "its resolver,",
		"mitm":                           "its interception,",
		"mitm/secret":                    "its secrets,",
		"policy":                         "its rules",
		"internal/control":               "and who asks about them",
		"internal/guest/machine":         "this program may be its process 1,",
		"internal/image/disk":            "as a disk, for a machine",
		"internal/guest":                 "through the agent",
		"internal/image":                 "from an image",
		"internal/confine":               "confines its process",
		"github.com/pkg/sftp":            "patches the guest's root by the agent's file server",
		"github.com/vishvananda/netlink": "follows the host's addresses and routes",
		"golang.org/x/sys":               "locks, limits, the lifeline",
	},
	"sdk": {
		".":                        "lists the hypervisors",
		"hv":                       "WithHypervisor takes one",
		"policy":                   "rules, and what a flow would meet",
		"vnet":                     "a user's configuration becomes its Config,",
		"dns":                      "its,",
		"mitm":                     "and its,",
		"mitm/secret":              "and its",
		"internal/confine":         "tells what the kernel lacks",
		"internal/control":         "talks to a running sandbox",
		"internal/guest":           "exec and files in it",
		"internal/guest/kernel":    "how a kernel in an image is named",
		"internal/holder":          "says who holds a port, which a confined sandbox can't",
		"internal/image":           "WithImage",
		"internal/sandbox":         "starts one",
		"github.com/goccy/go-yaml": "files that people write",
		"github.com/pkg/sftp":      "the guest's files",
		"golang.org/x/sys":         "the caller's terminal",
		"golang.org/x/term":        "the caller's terminal",
	},
	"cmd/sluice": {
		"sdk":                      "everything goes through it",
		"policy":                   "check and explain",
		"github.com/spf13/cobra":   "the command line",
		"github.com/spf13/pflag":   "the command line",
		"github.com/goccy/go-yaml": "the line that an error is about",
		"golang.org/x/sys":         "polls standard output",
		"golang.org/x/term":        "the caller's terminal",
	},
	"cmd/sluice-agent": {
		"internal/guest":         "the code of its exit",
		"internal/guest/machine": "is its main",
	},
	"internal/netlab": {
		"golang.org/x/net/dns/dnsmessage": "a name server that shares no code with package dns",
		"golang.org/x/sys":                "namespaces, packet sockets",
	},
	"internal/netlab/memnet": {
		"vnet/link":                    "the card of its guest",
		"gvisor.dev/gvisor/pkg/buffer": "packets of the stack",
		"gvisor.dev/gvisor/pkg/tcpip":  "a guest's kernel in memory: the one use of gVisor outside vnet",
	},
	"internal/darwincheck": {},
	"integration":          {},
	"integration/client":   {},
	"integration/demo":     {},
	"examples":             {},
	"examples/agent":       {"sdk": "shows it"},
	"examples/ask":         {"sdk": "shows it"},
	"examples/serve":       {"sdk": "shows it"},
	"bench":                {},
	"bench/exchange":       {},
	"bench/vm":             {},
}

// testsMay says what any package's tests may import on top. gVisor and miekg/dns
// are not among them: a test's oracle must not be what it tests.
var testsMay = map[string]string{
	"hv/hvtest":                       "the conformance suite and the fake",
	"internal/netlab":                 "the small internet",
	"internal/netlab/memnet":          "a guest in memory",
	"policy":                          "the leaf: rules in tests",
	"vnet/link":                       "frames in tests",
	"github.com/google/go-cmp":        "differences",
	"github.com/gopacket/gopacket":    "reads captures: a second opinion on every frame",
	"github.com/rogpeppe/go-internal": "testscript",
	"golang.org/x/net/dns/dnsmessage": "a second opinion on every DNS message",
	"golang.org/x/net/nettest":        "conformance of a net.Conn",
	"golang.org/x/sys":                "looks at descriptors",
	"pgregory.net/rapid":              "properties",
	"github.com/vishvananda/netlink":  "looks at interfaces",
}

// testsMayHere says what one package's tests may import on top.
var testsMayHere = map[string]map[string]string{
	"sdk":              {"hv/namespace": "tells whether this machine runs one", "internal/image/imagetest": "makes an image", "github.com/google/go-containerregistry": "makes images, and a registry"},
	"integration":      {"sdk": "the public door", "github.com/miekg/dns": "a hostile authority's messages", "github.com/google/go-containerregistry": "makes an image"},
	"cmd/sluice":       {"internal/image/imagetest": "makes images", "github.com/google/go-containerregistry": "and a registry"},
	"internal/sandbox": {"hv/namespace": "starts real guests"},
	"vnet":             {"golang.org/x/net/http2/hpack": "makes requests of HTTP/2"},
	"bench":            {"mitm": "beside mitmproxy", "mitm/secret": "with a secret", "hv": "a guest with a card of the kernel's", "hv/namespace": "starts it", "internal/guest": "runs iperf3 in it", "vnet": "the network over each link"},
	"bench/vm": {
		"hv": "a machine,", "hv/qemu": "emulated,", "internal/image/disk": "its root,", "internal/guest": "its agent,",
		"vnet": "and its network: the same guest has another one beside it",
		"sdk":  "what users start", "internal/image/imagetest": "its image", "github.com/google/go-containerregistry": "and how that is run",
	},
	"internal/netlab/memnet": {"vnet": "its Internet is a vnet.Dialer"},
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	imported := make(map[string][]string) // by package: what it imports on some platform, in tests too
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, p := range list(t, goos) {
			rules, known := allowed[p.name()]
			if !known {
				t.Errorf("%s: not in the map: say what it may import and why", p.ImportPath)
				continue
			}
			for _, bad := range violations(p.Imports, rules) {
				t.Errorf("%s (%s) imports %s", p.ImportPath, goos, bad)
			}
			inTests := maps.Clone(rules)
			maps.Copy(inTests, testsMay)
			maps.Copy(inTests, testsMayHere[p.name()])
			inTests[p.name()] = "an external test imports what it tests"
			ofTests := slices.Concat(p.TestImports, p.XTestImports)
			for _, bad := range violations(ofTests, inTests) {
				t.Errorf("%s (%s) imports %s in its tests", p.ImportPath, goos, bad)
			}
			imported[p.name()] = slices.Concat(imported[p.name()], p.Imports, ofTests)
		}
	}
	// A rule that nobody needs any more says something that isn't so.
	for _, table := range []map[string]map[string]string{allowed, testsMayHere} {
		for name, rules := range table {
			for _, rule := range unneeded(imported[name], rules) {
				t.Errorf("%s may import %s, and doesn't", name, rule)
			}
		}
	}
	for _, rule := range unneeded(slices.Concat(slices.Collect(maps.Values(imported))...), testsMay) {
		t.Errorf("tests may import %s, and none does", rule)
	}
}

// unneeded returns the rules that allow none of imports.
func unneeded(imports []string, rules map[string]string) []string {
	var out []string
	for rule, why := range rules {
		one := map[string]string{rule: why}
		if !slices.ContainsFunc(imports, func(path string) bool { return isRuled(path) && permitted(path, one) }) {
			out = append(out, rule)
		}
	}
	return out
}

// TestImportRulesBite shows that violations finds what it should.
func TestImportRulesBite(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pkg, imports string
		want         bool
	}{
		{"policy", "net/netip", true},
		{"policy", module + "/vnet", false},
		{"policy", "gvisor.dev/gvisor/pkg/tcpip", false},
		{"vnet", "gvisor.dev/gvisor/pkg/tcpip/stack", true},
		{"vnet", "gvisor.dev/gvisor/pkg/tcpipfoo", false},
		{"vnet", module + "/policy", true},
		{"vnet", module + "/policy/deep", false},
		{"vnet", module + "/dns", false},
		{"vnet", "github.com/miekg/dns", false},
		{"dns", "github.com/miekg/dns", true},
		{"dns", module + "/vnet", false},
		{"mitm", module + "/dns", false},
		{"hv", module + "/vnet", false},
		{"hv/namespace", module + "/vnet", false},
		{"vnet/link", module + "/policy", false},
		{"internal/sandbox", module, true},
		{"cmd/sluice", module + "/internal/sandbox", false},
		{"hv/qemu", "C", false},
		{"hv/krun", "C", true},
	} {
		if got := len(violations([]string{row.imports}, allowed[row.pkg])) == 0; got != row.want {
			t.Errorf("%s may import %s: %t, want %t", row.pkg, row.imports, got, row.want)
		}
	}
}

// violations returns those of imports that neither the standard library nor rules
// allow.
func violations(imports []string, rules map[string]string) []string {
	var bad []string
	for _, path := range imports {
		if !permitted(path, rules) {
			bad = append(bad, path)
		}
	}
	return bad
}

func permitted(path string, rules map[string]string) bool {
	if path == module {
		return rules["."] != ""
	}
	if ours, ok := strings.CutPrefix(path, module+"/"); ok {
		return rules[ours] != ""
	}
	if !isRuled(path) {
		return true
	}
	for prefix := range rules {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// isRuled reports whether an import needs a rule: it is not of the standard library.
func isRuled(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return path == "C" || strings.Contains(first, ".")
}

// A listed package is what go list says of it.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// name returns the package's path in the module, "." for the root.
func (p listed) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// list returns the module's packages as a platform sees them, cgo files included.
func list(t *testing.T, goos string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list for %s: %v", goos, err)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
