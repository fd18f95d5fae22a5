//go:build linux

package vm

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sluicenet/sluice/internal/image/imagetest"
)

// TestFiles prints what an image of many files takes: to be made into a disk, which
// is done once, and to be read by a guest, which must find every byte.
func TestFiles(t *testing.T) {
	if !*table {
		t.Skip("make bench measures")
	}
	archive := ownHome(t)
	files, sum := manyFiles(*fileCount)
	img, err := imagetest.Busybox(v1.Config{}, files...)
	if err != nil {
		t.Fatal(err)
	}
	if err := imagetest.Archive(archive, "files:latest", img); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	sb := createSandbox(t, archive)
	first := time.Since(begun)
	sb.Close()
	begun = time.Now()
	sb = createSandbox(t, archive)
	again := time.Since(begun)
	begun = time.Now()
	if got := execute(t, sb, "cd /data && busybox find . -type f | wc -l"); got != fmt.Sprint(*fileCount) {
		t.Errorf("the guest counts %s files; want %d", got, *fileCount)
	}
	counted := time.Since(begun)
	begun = time.Now()
	if got := execute(t, sb, "cd /data && for d in *; do cat $d/*; done | busybox sha256sum"); !strings.HasPrefix(got, sum) {
		t.Errorf("the guest's sum of all files is %s; want %s", got, sum)
	}
	read := time.Since(begun)
	disks, err := filepath.Glob(filepath.Join(os.Getenv("SLUICE_HOME"), "images", "*", "*", "root.ext4"))
	if err != nil || len(disks) != 1 {
		t.Fatalf("disks %q, %v; want one", disks, err)
	}
	info, err := os.Stat(disks[0])
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("an image of %d files: %d MiB as a disk; first start %v, later ones %v; counted in %v, read in %v\n",
		*fileCount, info.Size()>>20, first.Round(time.Millisecond), again.Round(time.Millisecond), counted.Round(time.Millisecond), read.Round(time.Millisecond))
}

// manyFiles returns so many files in /data, and the SHA-256 of all of
// them one after another: a thousand in a directory, most of some bytes, each
// hundredth of 64 KiB.
func manyFiles(count int) (files []imagetest.File, digest string) {
	sum := sha256.New()
	for i := range count {
		name := fmt.Sprintf("data/%04d/%04d", i/1000, i%1000)
		content := name + "\n"
		if i%100 == 0 {
			content = strings.Repeat(content, 64<<10/len(content))
		}
		sum.Write([]byte(content))
		files = append(files, imagetest.File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Content: content})
	}
	return files, fmt.Sprintf("%x", sum.Sum(nil))
}
