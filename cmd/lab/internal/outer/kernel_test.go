package outer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes files below a temporary folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFindKernel(t *testing.T) {
	root := tree(t, map[string]string{
		"boot/vmlinuz-6.1.0-9-cloud-amd64":             "",
		"boot/vmlinuz-6.1.0-40-cloud-amd64":            "",
		"boot/vmlinuz-6.12.117+deb12-amd64":            "", // not a cloud kernel
		"boot/vmlinuz-6.13.1-cloud-amd64":              "", // newest, but without modules
		"lib/modules/6.1.0-9-cloud-amd64/modules.dep":  "",
		"lib/modules/6.1.0-40-cloud-amd64/modules.dep": "",
	})
	k, err := findKernel(root)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, "boot/vmlinuz-6.1.0-40-cloud-amd64"); k.image != want {
		t.Errorf("found %s, want %s", k.image, want)
	}
	_, err = findKernel(t.TempDir())
	if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "apt-get install linux-image-cloud-amd64") {
		t.Errorf("without a kernel: %v", err)
	}
}

func TestCompareVersions(t *testing.T) {
	sorted := []string{"", "5", "6.1.0-9", "6.1.0-40", "6.1.0-40a", "6.12.9+deb12", "6.12.117+deb12", "10.0"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := compareVersions(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q, %q: %d", a, b, got)
			}
		}
	}
}

// signed is a module with a signature as sign-file writes it.
func signed(module string, size uint32, signature string) []byte {
	b := slices.Concat([]byte(module), []byte(signature), make([]byte, 8))
	b = binary.BigEndian.AppendUint32(b, size)
	return append(b, "~Module signature appended~\n"...)
}

func TestWithoutSignature(t *testing.T) {
	for name, c := range map[string]struct{ in, want []byte }{
		"unsigned":        {[]byte("module"), []byte("module")},
		"signed":          {signed("module", 3, "sig"), []byte("module")},
		"empty signature": {signed("module", 0, ""), []byte("module")},
		"size too large":  {signed("module", 100, "sig"), signed("module", 100, "sig")},
		"magic only":      {[]byte("~Module signature appended~\n"), []byte("~Module signature appended~\n")},
		"nothing":         {nil, nil},
	} {
		if got := withoutSignature(c.in); !bytes.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzWithoutSignature(f *testing.F) {
	f.Add(signed("module", 3, "sig"))
	f.Add(signed("", 1<<31, "sig"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := withoutSignature(b); !bytes.HasPrefix(b, got) {
			t.Errorf("%q is no prefix", got)
		}
	})
}
