package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicenet/sluice/internal/image/imagetest"
	"github.com/sluicenet/sluice/internal/netlab"
)

// labTests run inside the lab's namespace.
type labTests struct{ m *testing.M }

// Run implements testscript.TestingM.
func (l labTests) Run() int { return netlab.Run(l.m) }

// TestMain runs the tests inside a lab, and this binary as sluice where it is
// called so.
func TestMain(m *testing.M) {
	commands := map[string]func(){"sluice": main, "json": checkJSON}
	if _, called := commands[filepath.Base(os.Args[0])]; !called {
		netlab.Enter()
	}
	testscript.Main(labTests{m}, commands)
}

// checkJSON is a command of the stories: json 'WORD…' fails unless its input is
// JSON, any number of documents, and has the words.
func checkJSON() {
	text, err := io.ReadAll(os.Stdin)
	for d := json.NewDecoder(bytes.NewReader(text)); err == nil; {
		err = d.Decode(new(any))
	}
	if err != io.EOF {
		log.Fatalf("%v in %s", err, text)
	}
	for _, word := range strings.Fields(os.Args[1]) {
		if !bytes.Contains(text, []byte(word)) {
			log.Fatalf("no %q in %s", word, text)
		}
	}
}

// TestStories runs the stories of testdata: what users type, and what they see.
// The internet that they meet has
//
//	http://web.example/         hello
//	http://private.example/     a private address, 10.1.2.3
//	http://example.com/         hello, and by HTTPS, as http://api.example.com/;
//	                            "hello, friend" for who has the key "sesame-open"
//	9.9.9.9                     a resolver that asks the lab's
//	https://slow.example/       no answer
//	registry.example/tools:1    an image of busybox and curl, the archive $TOOLS too
//	http://localhost:8080/      hello, on this machine
//
// and nothing else.
func TestStories(t *testing.T) {
	lab := netlab.New(t)
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	lab.Host(t, "web.example").HTTP(80, hello)
	lab.Host(t, "private.example", "10.1.2.3").HTTP(80, hello)
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer sesame-open" {
			fmt.Fprintln(w, "hello, friend")
			return
		}
		hello(w, r)
	})
	for _, name := range []string{"example.com", "api.example.com"} {
		host := lab.Host(t, name)
		host.HTTP(80, api)
		host.HTTPS(443, api)
	}
	archive := filepath.Join(t.TempDir(), "tools.tar")
	serveImage(t, lab, archive)
	lab.Host(t, "resolver.example", "9.9.9.9").UDP(53, forwardQuery)
	here := httptest.NewUnstartedServer(hello)
	here.Listener = listen(t, "127.0.0.1:8080")
	here.Start()
	t.Cleanup(here.Close) // the stories run when this function has returned
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Condition: func(cond string) (bool, error) {
			if cond != "checkout" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			_, err := os.Stat(filepath.Join(repo, ".git"))
			return err == nil, nil
		},
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			dir := env.Getenv("WORK")
			env.Setenv("SLUICE_HOME", filepath.Join(dir, "home"))
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
			env.Setenv("NO_COLOR", "1")
			env.Setenv("TOOLS", archive)
			forBuilding(env, repo)
			return os.Mkdir(filepath.Join(dir, "run"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":    await,
			"nothing":  nothing,
			"exitcode": exitCode,
		},
		UpdateScripts: os.Getenv("SLUICE_UPDATE") == "1",
	})
}

// forBuilding lets a story build what it has cloned: with the caches of this
// test's own build, since there is no internet.
func forBuilding(env *testscript.Env, repo string) {
	env.Setenv("REPO", repo)
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOFLAGS", "GOROOT"} {
		value, err := exec.Command("go", "env", name).Output()
		if err == nil { // else the build says what it misses
			env.Setenv(name, strings.TrimSpace(string(value)))
		}
	}
	// Whoever's the checkout is.
	env.Setenv("GIT_CONFIG_COUNT", "1")
	env.Setenv("GIT_CONFIG_KEY_0", "safe.directory")
	env.Setenv("GIT_CONFIG_VALUE_0", "*")
}

// serveImage makes an image of busybox, as a file and in a registry.
func serveImage(t *testing.T, lab *netlab.Lab, archive string) {
	t.Helper()
	img, err := imagetest.Busybox(v1.Config{Cmd: []string{"cat", "/etc/motd"}, Env: []string{"FROM=image"}}, program(t, "curl")...)
	if err != nil {
		netlab.Skip(t, "tools", err.Error())
	}
	if err := imagetest.Archive(archive, "built.example/tools:1", img); err != nil {
		t.Fatal(err)
	}
	lab.Host(t, "slow.example").HTTPS(443, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	lab.Host(t, "registry.example").HTTPS(443, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ref, err := name.ParseReference("registry.example/tools:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(&http.Transport{DisableKeepAlives: true})); err != nil {
		t.Fatal(err)
	}
}

// program returns a program of this machine and the libraries that it is linked
// with, as an image holds them.
func program(t *testing.T, name string) []imagetest.File {
	t.Helper()
	path := netlab.Tool(t, name)
	linked, err := exec.Command(netlab.Tool(t, "ldd"), path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []imagetest.File
	for _, word := range append(strings.Fields(string(linked)), path) {
		if !filepath.IsAbs(word) {
			continue // a name before =>, or where it is loaded
		}
		content, err := os.ReadFile(word)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, imagetest.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: word[1:], Mode: 0o755}, Content: string(content)})
	}
	return files
}

// forwardQuery is a resolver: it asks the lab's DNS.
func forwardQuery(query []byte, _ net.Addr) []byte {
	c, err := net.Dial("udp", netip.AddrPortFrom(netlab.DNS4, 53).String())
	if err != nil {
		return nil
	}
	defer c.Close()
	answer := make([]byte, 4096)
	_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // a UDP socket has them
	if _, err := c.Write(query); err != nil {
		return nil
	}
	n, err := c.Read(answer)
	if err != nil {
		return nil
	}
	return answer[:n]
}

// listen returns a listener on this machine's addr.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// await: await COMMAND ARG… repeats a command until it succeeds, for 10 s.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: await COMMAND ARG…")
	}
	deadline := time.Now().Add(time.Minute) // a busy machine starts no sandbox in ten seconds
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("await %q: %v", args, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// nothing: checks that no sandbox left a file.
func nothing(ts *testscript.TestScript, _ bool, _ []string) {
	for _, pattern := range []string{"home/sandboxes/*", "run/sluice/*"} {
		paths, err := filepath.Glob(ts.MkAbs(pattern))
		ts.Check(err)
		if len(paths) > 0 {
			ts.Fatalf("left: %s", strings.Join(paths, " "))
		}
	}
}

// exitCode: exitcode N COMMAND ARG… checks a command's exit code.
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N COMMAND ARG…")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("%q: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("%q: exit code %d, want %s", args[1:], got, args[0])
	}
}
