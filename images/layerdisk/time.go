package layerdisk

import "time"

// ext4 keeps the seconds of a time as 32 bits with a sign, and two more bits
// ("epoch") that count how often 2^32 is to be added
// (Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps").
const (
	minTime = -1 << 31
	// maxTime is less than what ext4 can do (2446): the ext4 writer clamps what diskTime makes of later ones. It is in 2310.
	maxTime = 0x27fffffff
)

// diskTime returns the time to give to the ext4 writer of hcsshim v0.15.0 so
// that t stands on the disk. That writer (compactext4.timeToFsTime) stores the
// low 34 bits of the seconds, which is right only when the 32 bits without
// the epoch are not negative: it would turn 2040 into 1904 and 1960 into 2368.
// Adding what the sign takes away makes it right. Times that ext4 cannot hold
// become the nearest one it can.
func diskTime(t time.Time) time.Time {
	seconds := t.Unix()
	switch {
	case t.IsZero():
		return time.Unix(0, 0)
	case seconds < minTime:
		return time.Unix(minTime&0xffffffff, 0)
	case seconds > maxTime:
		return time.Unix(maxTime, 0)
	}
	low := int64(int32(seconds))
	epoch := (seconds - low) >> 32
	return time.Unix(epoch<<32|seconds&0xffffffff, int64(t.Nanosecond()))
}
