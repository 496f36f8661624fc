package share

import "golang.org/x/sys/unix"

const (
	wantFiles     = 1 << 20 // descriptors of a process with shares, if it may have them
	reservedFiles = 512     // for everything else in the process
	mostNodes     = 1 << 18 // of one share
	mostFiles     = 1 << 16
)

// Room tells what bounds each of a number of shares should have, for all of them to fit into the descriptors that this
// process may have; as root it asks for more.
func Room(shares int) (nodes, files int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024 // POSIX knows no less that is usual
	}
	if limit.Cur < wantFiles {
		more := unix.Rlimit{Cur: wantFiles, Max: max(limit.Max, wantFiles)}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) != nil {
			more = unix.Rlimit{Cur: limit.Max, Max: limit.Max}
			if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) != nil {
				more = limit
			}
		}
		limit = more
	}
	each := int(max(limit.Cur, reservedFiles+64)-reservedFiles) / max(shares, 1)
	return max(min(each/4*3, mostNodes), 1), max(min(each/4, mostFiles), 1)
}
