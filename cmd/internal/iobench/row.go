package main

import "time"

// row is a line of the table: one kind of request, done by the guest under each
// monitor, and without one as the floor.
type row struct {
	name  string
	work  work
	floor func(*bench, work) (time.Duration, error) // a request of the floor
	// alone is set where QEMU has no such device without help of the host's
	// kernel.
	alone bool
}

// diskSize is the file that block rows read and write, in bytes: small enough for
// the page cache to hold all of it.
const diskSize = 256 << 20

// rows is the table. Counts are such that a row takes some hundred milliseconds.
func rows() []row {
	var all []row
	blk := func(name string, w work) {
		w.Kind, w.Device = kindBlk, idBlock
		w.Features = blockFeatures
		w.Units, w.Seed, w.Step = diskSize/w.Size, seed, w.Size-8
		w.Warmup = w.Count / 20
		all = append(all, row{name: name, work: w, floor: floorDisk})
	}
	for _, d := range []struct {
		name         string
		depth, count uint64
	}{{"depth 1", 1, 8000}, {"depth 32", 32, 30000}, {"depth 128", 128, 30000}} {
		blk("4 KiB random read, "+d.name, work{Size: 4096, Depth: d.depth, Count: d.count})
		blk("4 KiB random write, "+d.name, work{Size: 4096, Depth: d.depth, Count: d.count, Write: 1})
	}
	blk("4 KiB random read, depth 1, interrupts", work{Size: 4096, Depth: 1, Count: 4000, Interrupts: 1})
	blk("4 KiB random read, depth 32, interrupts", work{Size: 4096, Depth: 32, Count: 20000, Interrupts: 1})
	blk("1 MiB sequential read, depth 4", work{Size: 1 << 20, Depth: 4, Count: 1000, Sequential: 1})
	blk("1 MiB sequential write, depth 4", work{Size: 1 << 20, Depth: 4, Count: 1000, Sequential: 1, Write: 1})

	network := func(name string, w work) {
		w.Device, w.Features = idNet, netFeatures
		w.Depth, w.Warmup = 128, w.Count/20
		all = append(all, row{name: name, work: w, floor: floorTap})
	}
	network("net, 64 B out", work{Kind: kindNetOut, Size: 64, Count: 60000})
	network("net, 1514 B out", work{Kind: kindNetOut, Size: 1514, Count: 60000})
	network("net, 64 KiB out", work{Kind: kindNetOut, Size: 65520, Count: 10000})
	network("net, 64 B in", work{Kind: kindNetIn, Size: 64, Count: 60000})
	network("net, 1514 B in", work{Kind: kindNetIn, Size: 1514, Count: 60000})
	network("net, 64 KiB in", work{Kind: kindNetIn, Size: 65520, Count: 10000})

	all = append(all, row{name: "read of a device register", floor: floorNone, work: work{
		Kind: kindRegister, Device: idBlock, Features: blockFeatures, Depth: 1, Count: 4000, Warmup: 200,
	}})

	vsock := func(name string, w work) {
		w.Device, w.Features, w.Seed = idVsock, vsockFeatures, seed
		w.Depth, w.Warmup = 64, w.Count/20
		all = append(all, row{name: name, work: w, floor: floorStream, alone: true})
	}
	vsock("vsock, 64 B out", work{Kind: kindVsockOut, Size: 64, Count: 40000})
	vsock("vsock, 1504 B out", work{Kind: kindVsockOut, Size: 1504, Count: 30000})
	vsock("vsock, 64 KiB out", work{Kind: kindVsockOut, Size: 64 << 10, Count: 6000})
	vsock("vsock, 1504 B buffers in", work{Kind: kindVsockIn, Size: 1504, Count: 30000})
	vsock("vsock, 4 KiB buffers in", work{Kind: kindVsockIn, Size: 4096, Count: 30000})
	vsock("vsock, 64 KiB buffers in", work{Kind: kindVsockIn, Size: 64 << 10, Count: 6000})
	return all
}
