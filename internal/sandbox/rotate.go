package sandbox

import "os"

// A rotatingFile is a file that is renamed to NAME.1, and begun again, when it
// would outgrow a limit. It is not for concurrent use.
type rotatingFile struct {
	path  string
	limit int64 // bytes
	f     *os.File
	size  int64 // bytes written to f
}

// createRotating creates the file at path, or empties it.
func createRotating(path string, limit int64) (*rotatingFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &rotatingFile{path: path, limit: limit, f: f}, nil
}

// Write appends p as a whole to one file.
func (w *rotatingFile) Write(p []byte) (int, error) {
	if w.size > 0 && w.size+int64(len(p)) > w.limit {
		if err := w.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := w.f.Write(p)
	w.size += int64(n)
	return n, err
}

func (w *rotatingFile) rotate() error {
	if err := os.Rename(w.path, w.path+".1"); err != nil {
		return err
	}
	next, err := createRotating(w.path, w.limit)
	if err != nil {
		return err
	}
	err = w.f.Close()
	*w = *next
	return err
}

// Close closes the file.
func (w *rotatingFile) Close() error { return w.f.Close() }
