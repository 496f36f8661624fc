package boot

import (
	"fmt"

	"github.com/hullvm/hull/vmm/memory"
)

// Page table entries (Intel SDM vol. 3, 4.5).
const (
	pagePresent  = 1 << 0
	pageWritable = 1 << 1
	pageUser     = 1 << 2
	pageLarge    = 1 << 7 // in a page directory: a page of 2 MiB
	pageTable    = pagePresent | pageWritable | pageUser
	largePage    = pageTable | pageLarge

	largePageSize = 2 << 20
	directorySpan = 1 << 30 // what one page directory maps
	entries       = 512
)

// writePageTables maps the first 4 GiB to themselves, devices included, and
// the GiBs above that have something of the kernel, initrd or entry point in
// them. All in pages of 2 MiB: not every processor has the 1 GiB ones. User
// mode may use them too, so that a test guest can go there without tables of
// its own; a kernel has made its own by then.
func (l *loader) writePageTables() error {
	gibs := []uint64{0, 1, 2, 3}
	for _, c := range l.used {
		for g := max(c.start/directorySpan, gibs[len(gibs)-1]+1); g <= (c.end-1)/directorySpan; g++ {
			gibs = append(gibs, g)
			if len(gibs) > MaxPageDirectories {
				return fmt.Errorf("boot: %w: kernel and initrd are spread over more than %d GiB", ErrNoRoom, MaxPageDirectories)
			}
		}
	}
	b, err := l.mem.Slice(PageTables, (2+len(gibs))*memory.PageSize)
	if err != nil {
		return fmt.Errorf("boot: page tables: %w", err)
	}
	const pdpt = PageTables + memory.PageSize
	const firstDirectory = pdpt + memory.PageSize
	le.PutUint64(b, pdpt|pageTable)
	for i, g := range gibs {
		if g >= entries {
			return fmt.Errorf("boot: %w: kernel or initrd above 512 GiB", ErrNoRoom)
		}
		directory := firstDirectory + uint64(i)*memory.PageSize
		le.PutUint64(b[pdpt-PageTables+8*g:], directory|pageTable)
		d := b[directory-PageTables:][:memory.PageSize]
		for e := range uint64(entries) {
			le.PutUint64(d[8*e:], g*directorySpan+e*largePageSize|largePage)
		}
	}
	return nil
}
