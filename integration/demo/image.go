package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// makeImage writes the archive of an image that is made of this machine's own
// programs: busybox, and curl with the libraries that it needs. No registry is
// asked.
func makeImage(path string) error {
	layer, err := makeLayer()
	if err != nil {
		return err
	}
	config := map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
		"config": map[string]any{"Env": []string{"PATH=/bin"}},
	}
	manifest := []map[string]any{{"Config": "config.json", "RepoTags": []string{"demo:latest"}, "Layers": []string{"layer.tar"}}}
	files := map[string][]byte{"layer.tar": layer}
	for name, document := range map[string]any{"config.json": config, "manifest.json": manifest} {
		if files[name], err = json.Marshal(document); err != nil {
			return err
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := addFile(w, name, files[name]); err != nil {
			return err
		}
	}
	return w.Close()
}

// makeLayer returns the archive of the image's files.
func makeLayer() ([]byte, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	names, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, err
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		return nil, err
	}
	libraries, err := exec.Command("ldd", curl).Output()
	if err != nil {
		return nil, err
	}
	files := map[string]string{"bin/busybox": busybox, "bin/curl": curl} // what is where on this machine
	for word := range strings.FieldsSeq(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			files[word[1:]] = word
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text, err := os.ReadFile(files[name])
		if err == nil {
			err = addFile(w, name, text)
		}
		if err != nil {
			return nil, err
		}
	}
	for name := range strings.FieldsSeq(string(names)) {
		if name == "busybox" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// addFile adds an executable file to an archive.
func addFile(w *tar.Writer, name string, text []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(text))
	return err
}
