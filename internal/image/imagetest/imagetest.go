// Package imagetest makes images for tests on the spot: Busybox is a whole one,
// Image has the files it is given, Archive writes one where it can be loaded from.
// There is no registry to ask.
package imagetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Applets are the programs of busybox that its image has, in /bin.
func Applets() []string {
	return []string{
		"cat", "echo", "env", "head", "hostname", "httpd", "id", "ip", "kill", "ls", "mkdir", "nc", "nslookup",
		"ping", "pwd", "sh", "sleep", "stty", "test", "true", "wc", "wget",
	}
}

// Busybox returns an image of this machine's static busybox: root and the user
// app (1000), /etc/motd, /tmp, /srv, and more files. cfg says how it wants to be
// run. The error matches exec.ErrNotFound if there is no busybox.
func Busybox(cfg v1.Config, more ...File) (v1.Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Image(cfg, append(busyboxFiles(program), more...)...)
}

// busyboxFiles returns the files of the image.
func busyboxFiles(program []byte) []File {
	var files []File
	for _, dir := range []string{"bin", "dev", "etc", "home/app", "proc", "root", "srv", "sys"} {
		files = append(files, File{Header: tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}})
	}
	files = append(files,
		File{Header: tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}},
		File{tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program)},
		File{tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"},
		File{tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\napp:x:1000:\n"},
		File{tar.Header{Typeflag: tar.TypeReg, Name: "etc/motd", Mode: 0o644}, "hello from the image\n"},
	)
	for _, applet := range Applets() {
		files = append(files, File{Header: tar.Header{Typeflag: tar.TypeLink, Name: "bin/" + applet, Linkname: "bin/busybox", Mode: 0o755}})
	}
	return files
}

// A File is one file of a layer. Its size is Content's.
type File struct {
	tar.Header
	Content string
}

// Image returns an image of one layer, for this machine's processor.
func Image(cfg v1.Config, files ...File) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		f.Size = int64(len(f.Content))
		if err := w.WriteHeader(&f.Header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, f.Content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, cfg
	return mutate.ConfigFile(img, file)
}

// Archive writes an image to a docker archive at path, under the name ref.
func Archive(path, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("image %q: %w", ref, err)
	}
	return tarball.WriteToFile(path, tag, img)
}
