package bundle

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Write writes to w a program followed by an archive of the given files (member
// name to path). The same input gives the same bytes. Members are stored, not
// compressed: that makes the first start of a fresh copy fast.
func Write(w io.Writer, program io.Reader, files map[string]string) error {
	offset, err := io.Copy(w, program)
	if err != nil {
		return fmt.Errorf("copying the program: %w", err)
	}
	z := zip.NewWriter(w)
	z.SetOffset(offset)
	m := manifest{Members: map[string]entry{}}
	for _, name := range Members() {
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("writing the archive: no file given for member %q", name)
		}
		e, err := describe(path)
		if err != nil {
			return fmt.Errorf("writing the archive: %w", err)
		}
		m.Members[name] = e
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	if err := add(z, nameManifest, func(w io.Writer) error { _, err := w.Write(raw); return err }); err != nil {
		return err
	}
	for _, name := range Members() {
		err := add(z, name, func(w io.Writer) error {
			f, err := os.Open(files[name])
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

func add(z *zip.Writer, name string, content func(io.Writer) error) error {
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
	if err == nil {
		err = content(w)
	}
	if err != nil {
		return fmt.Errorf("writing member %q of the archive: %w", name, err)
	}
	return nil
}

func describe(path string) (entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, f)
	if err != nil {
		return entry{}, err
	}
	if n > maxMember {
		return entry{}, fmt.Errorf("%s has %d bytes, more than %d", path, n, maxMember)
	}
	return entry{Size: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
}
