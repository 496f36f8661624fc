package memory

import (
	"fmt"
	"os"
)

// Shared is a file of the host's in the guest's address space, beside its RAM. Memory.Slice does not know it:
// devices neither read nor write there, since a file that somebody makes shorter, or one that is read-only, is
// no memory of this process.
type Shared struct {
	f     *os.File
	bytes []byte
}

// MapShared maps a file for a guest: what one writes the other sees. The mapping is padded with zeros to a
// multiple of HugePageSize. readOnly maps it so that nobody can write. The file may be closed afterwards unless
// Sync is needed.
func MapShared(f *os.File, readOnly bool) (*Shared, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("mapping a file: %w", err)
	}
	size := st.Size()
	if !st.Mode().IsRegular() || size == 0 || size > 1<<46 {
		return nil, fmt.Errorf("mapping %s: %w: it must be a regular file of 1 byte to 64 TiB", f.Name(), ErrFile)
	}
	b, err := mapShared(f, uint64(size), (uint64(size)+HugePageSize-1)&^(HugePageSize-1), readOnly)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", f.Name(), err)
	}
	return &Shared{f: f, bytes: b}, nil
}

// Bytes are those of the mapping, for KVM_SET_USER_MEMORY_REGION.
func (s *Shared) Bytes() []byte { return s.bytes }

// Sync returns when what was written to the mapping is on stable storage.
func (s *Shared) Sync() error { return s.f.Sync() }

// Close unmaps. No vCPU may run any more.
func (s *Shared) Close() error {
	b := s.bytes
	s.bytes = nil
	if b == nil {
		return nil
	}
	return unmap(b)
}
