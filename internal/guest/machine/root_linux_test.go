package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// The attempt changes nothing of the first directory that there is.
func TestTryCopyUp(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := tryCopyUp(root); err != nil {
		t.Errorf("an empty root: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "a file"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "directory")
	const mode = fs.ModeDir | fs.ModeSticky | 0o751
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode)); err != nil {
		t.Fatal(err)
	}
	if err := tryCopyUp(root); err != nil {
		t.Errorf("a root with a directory: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode() != mode {
		t.Errorf("%v, %v; want %v", info.Mode(), err, mode)
	}
	if err := tryCopyUp(filepath.Join(root, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no root: %v", err)
	}
}
