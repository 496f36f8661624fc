package net

import "testing"

// FuzzHeader: what comes out of fromDriver and toDriver is in the frame and was negotiated, whatever went in.
func FuzzHeader(f *testing.F) {
	seed := func(h Header, features uint64, n uint16) {
		var raw [HeaderSize]byte
		h.Encode(&raw)
		f.Add(raw[:], features, n)
	}
	seed(Header{}, allOffloads, 60)
	seed(Header{Flags: HdrNeedsCSum, CSumStart: 34, CSumOffset: 16, HdrLen: 54}, allOffloads, 100)
	seed(Header{Flags: HdrNeedsCSum, CSumStart: 65535, CSumOffset: 65535}, allOffloads, 65535)
	seed(Header{Flags: HdrNeedsCSum, GSOType: GSOTCPv4, GSOSize: 1448, NumBuffers: 3}, allOffloads, 9000)
	seed(Header{Flags: HdrNeedsCSum, GSOType: GSOTCPv6}, allOffloads, 9000)
	seed(Header{Flags: 0xff, GSOType: 0xff}, 0, 14)
	f.Fuzz(func(t *testing.T, raw []byte, features uint64, length uint16) {
		if len(raw) < HeaderSize {
			return
		}
		n := int(length)
		has := func(bit uint) bool { return features&(1<<bit) != 0 }
		var in Header
		in.Decode((*[HeaderSize]byte)(raw))

		h := in
		if h.fromDriver(features, n) {
			switch {
			case h.Flags&^HdrNeedsCSum != 0, h.HdrLen != 0, h.NumBuffers != 0:
				t.Errorf("%+v passes on what is the driver's own: %+v", in, h)
			case h.Flags != 0 && (!has(F_CSUM) || int(h.CSumStart)+int(h.CSumOffset)+2 > n):
				t.Errorf("%+v: a checksum outside of %d bytes, or not negotiated: %+v", in, n, h)
			case h.GSOType == GSOTCPv4 && !has(F_HOST_TSO4), h.GSOType == GSOTCPv6 && !has(F_HOST_TSO6):
				t.Errorf("%+v: segments that were not negotiated: %+v", in, h)
			case h.GSOType != GSONone && h.GSOType != GSOTCPv4 && h.GSOType != GSOTCPv6:
				t.Errorf("%+v: unknown segments: %+v", in, h)
			case h.GSOType != GSONone && (h.GSOSize == 0 || h.Flags == 0):
				t.Errorf("%+v: segments without size or checksum: %+v", in, h)
			}
		}

		h = in
		if h.toDriver(features, n) {
			switch {
			case !has(F_GUEST_CSUM) && h.Flags != 0:
				t.Errorf("%+v: flags that were not negotiated: %+v", in, h)
			case h.GSOType == GSOTCPv4 && !has(F_GUEST_TSO4), h.GSOType == GSOTCPv6 && !has(F_GUEST_TSO6):
				t.Errorf("%+v: segments that were not negotiated: %+v", in, h)
			case int(h.CSumStart)+int(h.CSumOffset) > n:
				t.Errorf("%+v: a checksum outside of %d bytes: %+v", in, n, h)
			}
		}
	})
}
