package vz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// entitlement is what a program must be signed with to make virtual machines.
// Anybody may sign with it, without a certificate.
const entitlement = "com.apple.security.virtualization"

// entitlements is the file that codesign takes it from.
const entitlements = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>` + entitlement + `</key>
	<true/>
</dict>
</plist>
`

// Executable returns a program that may make virtual machines and is the running
// one: itself, if it is signed so, else a copy in the user's cache directory that
// it signs. A caller's program, and every test binary, isn't; a sandbox's process
// is started from here.
func Executable(ctx context.Context) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return newSigner().executable(ctx, self)
}

// A signer finds out what programs are signed with, and signs copies of them.
type signer struct {
	// start runs a program with all of its arguments, the name included, and
	// returns what it writes to standard output.
	start func(ctx context.Context, path string, args ...string) ([]byte, error)
	cache string // directory of the copies; "" is in the user's cache directory
}

// newSigner returns one that runs Apple's codesign, which every Mac has.
func newSigner() signer { return signer{start: runProgram} }

// codesign runs Apple's codesign, which is in the base system.
func (s signer) codesign(ctx context.Context, args ...string) ([]byte, error) {
	return s.start(ctx, "/usr/bin/codesign", append([]string{"codesign"}, args...)...)
}

// runProgram runs a program; the error has what it says.
func runProgram(ctx context.Context, path string, args ...string) ([]byte, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Args, cmd.Stderr = args, &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(path), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// entitled reports whether a program is signed with the entitlement.
func (s signer) entitled(ctx context.Context, path string) bool {
	out, err := s.codesign(ctx, "--display", "--entitlements", "-", "--xml", path)
	return err == nil && grants(out) // an error is: not signed at all
}

// grants reports whether an entitlements file has the entitlement, set to true.
func grants(plist []byte) bool {
	_, rest, ok := bytes.Cut(plist, []byte("<key>"+entitlement+"</key>"))
	return ok && bytes.HasPrefix(bytes.TrimSpace(rest), []byte("<true/>"))
}

// executable returns path if it is entitled, else a signed copy of it.
func (s signer) executable(ctx context.Context, path string) (string, error) {
	if s.entitled(ctx, path) {
		return path, nil
	}
	to, err := s.place(path)
	if err != nil {
		return "", fmt.Errorf("copy %q to sign it: %w", path, err)
	}
	if s.entitled(ctx, to) {
		return to, nil
	}
	if err := s.copySigned(ctx, path, to); err != nil {
		return "", fmt.Errorf("sign a copy of %q: %w", path, err)
	}
	return to, nil
}

// place returns where the copy of a program lies: one for each content.
func (s signer) place(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	dir := s.cache
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "sluice", "signed")
	}
	// 64 bits: the directory is the user's, who has nobody to deceive there.
	return filepath.Join(dir, filepath.Base(path)+"-"+hex.EncodeToString(sum.Sum(nil)[:8])), nil
}

// copySigned makes to a signed copy of path. Whoever looks finds a whole one or
// none, since others may do the same at the same time.
func (s signer) copySigned(ctx context.Context, path, to string) error {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, ".sign-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	program, list := filepath.Join(work, filepath.Base(path)), filepath.Join(work, "entitlements.plist")
	// A new file, never one that was executed before: the kernel remembers a file's
	// signature, and kills what runs from one that was signed again in its place.
	if err := writeFile(program, from); err != nil {
		return err
	}
	// writeFile's mode is that of data.
	if err := os.Chmod(program, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(list, []byte(entitlements), 0o600); err != nil {
		return err
	}
	// "-" signs without a certificate. --force, since Go's linker has signed already:
	// nothing runs unsigned on Apple silicon.
	if _, err := s.codesign(ctx, "--sign", "-", "--force", "--entitlements", list, program); err != nil {
		return err
	}
	if err := os.Rename(program, to); err != nil {
		return err
	}
	forgetCopies(dir)
	return nil
}

// maxCopies is how many signed copies are kept: those of a few programs, of which
// each build is another. A test's binary has tens of megabytes.
const maxCopies = 8

// forgetCopies removes all but the newest copies in a directory. One that runs goes on
// running; one that is wanted again is made again.
func forgetCopies(dir string) {
	copies, err := filepath.Glob(filepath.Join(dir, "[^.]*"))
	if err != nil || len(copies) <= maxCopies {
		return
	}
	made := func(path string) time.Time {
		info, err := os.Lstat(path)
		if err != nil {
			return time.Time{} // somebody else has removed it
		}
		return info.ModTime()
	}
	slices.SortFunc(copies, func(a, b string) int { return made(b).Compare(made(a)) })
	for _, path := range copies[maxCopies:] {
		os.Remove(path) // or it stays for the next time
	}
}

// explain returns err with the fix, if this program may not make machines: the
// framework only says that the configuration isn't valid.
func (s signer) explain(ctx context.Context, err error) error {
	if errors.Is(err, errors.ErrUnsupported) || ctx.Err() != nil {
		return err
	}
	self, selfErr := os.Executable()
	if selfErr != nil || s.entitled(ctx, self) {
		return err
	}
	return &unusableError{
		fmt.Errorf("this program is not signed with %s: %w", entitlement, err),
		"set SLUICE_EXECUTABLE to an installed sluice, or sign the program: codesign -s - --entitlements vz.entitlements " + self,
	}
}
