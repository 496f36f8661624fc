package api

import "github.com/hullvm/hull/vmm"

// rate is a token bucket as package vmm has it. A bucket without size or refill time sets no limit.
func (b *tokenBucket) rate() vmm.Rate {
	if b == nil || b.Size == 0 || b.RefillTime == 0 {
		return vmm.Rate{}
	}
	r := vmm.Rate{PerSecond: b.Size, Interval: b.RefillTime, Burst: b.Size}
	replace(&r.Once, b.OneTimeBurst)
	return r
}

func (l *rateLimiter) buckets() (bandwidth, ops vmm.Rate) {
	if l == nil {
		return vmm.Rate{}, vmm.Rate{}
	}
	return l.Bandwidth.rate(), l.Ops.rate()
}

func (l *rateLimiter) disk() vmm.DiskLimits {
	bytes, ops := l.buckets()
	return vmm.DiskLimits{Bytes: bytes, Ops: ops}
}

func (l *rateLimiter) nic() vmm.NICLimits {
	bytes, frames := l.buckets()
	return vmm.NICLimits{Bytes: bytes, Frames: frames}
}

func (l *rateLimiter) pmem() vmm.PmemLimits {
	bytes, ops := l.buckets()
	return vmm.PmemLimits{Bytes: bytes, Ops: ops}
}

// patched is l with the buckets that by has. One that stays as it is does not get its one-time burst again.
func (l *rateLimiter) patched(by *rateLimiter) *rateLimiter {
	var out rateLimiter
	if l != nil {
		out = rateLimiter{Bandwidth: l.Bandwidth.used(), Ops: l.Ops.used()}
	}
	if by == nil {
		return &out
	}
	if by.Bandwidth != nil {
		out.Bandwidth = by.Bandwidth
	}
	if by.Ops != nil {
		out.Ops = by.Ops
	}
	return &out
}

// used is a bucket without its one-time burst.
func (b *tokenBucket) used() *tokenBucket {
	if b == nil {
		return nil
	}
	return &tokenBucket{Size: b.Size, RefillTime: b.RefillTime}
}
