package images

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func toHash(sum [sha256.Size]byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// hashOf is the digest of b.
func hashOf(b []byte) v1.Hash { return toHash(sha256.Sum256(b)) }

// hasher counts and hashes what is written to it.
type hasher struct {
	hash.Hash
	n int64
}

func newHasher() *hasher { return &hasher{Hash: sha256.New()} }

func (h *hasher) Write(p []byte) (int, error) {
	n, err := h.Hash.Write(p)
	h.n += int64(n)
	return n, err
}

func (h *hasher) digest() v1.Hash { return toHash([sha256.Size]byte(h.Sum(nil))) }

// check compares with what a manifest promised.
func (h *hasher) check(want v1.Hash, size int64) error {
	if size >= 0 && h.n != size {
		return fmt.Errorf("%d bytes instead of %d: %w", h.n, size, ErrDigest)
	}
	if got := h.digest(); got != want {
		return fmt.Errorf("digest %s instead of %s: %w", got, want, ErrDigest)
	}
	return nil
}

// validDigest tells whether a digest from outside is one that hull uses as a file name.
func validDigest(h v1.Hash) bool {
	return h.Algorithm == "sha256" && len(h.Hex) == 2*sha256.Size && isHex(h.Hex)
}

// sumBytes is the digest as bytes, which also make the UUID of a disk image.
func sumBytes(h v1.Hash) (sum [sha256.Size]byte) {
	b, err := hex.DecodeString(h.Hex)
	if err == nil {
		copy(sum[:], b)
	}
	return sum
}

// chainIDs name each layer together with all below it (OCI image-spec,
// config.md, "Layer ChainID").
func chainIDs(diffIDs []v1.Hash) []v1.Hash {
	var chain []v1.Hash
	for i, d := range diffIDs {
		if i == 0 {
			chain = append(chain, d)
			continue
		}
		chain = append(chain, hashOf([]byte(chain[i-1].String()+" "+d.String())))
	}
	return chain
}

// atMost is a reader that fails with ErrLimit when r has more than left bytes.
type atMost struct {
	r    io.Reader
	left int64
	what string
}

func (l *atMost) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, fmt.Errorf("%s: %w", l.what, ErrLimit)
	}
	// One byte more than allowed tells that there is more.
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if l.left < 0 {
		return 0, fmt.Errorf("%s: %w", l.what, ErrLimit)
	}
	return n, err
}

// readAtMost reads all of r, or fails with ErrLimit.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	return io.ReadAll(&atMost{r: r, left: limit, what: fmt.Sprintf("more than %d bytes", limit)})
}
