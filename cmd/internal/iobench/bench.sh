#!/bin/sh
# The first process of a guest that measures: fio on the second disk, iperf3 to the host. Each line
# that begins with RESULT has a figure.
export PATH=/bin
for program in mount ip awk cat; do
	eval "$program() { busybox $program \"\$@\"; }"
done
mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
cd /tmp
ip link set lo up
ip addr add @GUEST dev eth0
ip link set eth0 up

# measure KEY FIELD OPTION...: what terse output has in a field.
measure() {
	key=$1 field=$2
	shift 2
	fio --name="$key" --rw="$key" --filename=/dev/vdb --ioengine=libaio --direct=1 --invalidate=0 \
		--output-format=terse --terse-version=3 "$@" >out || cat out
	awk -F ';' -v key="$key" -v field="$field" '$1 == 3 { print "RESULT", key, $field }' out
}
measure randread 8 --bs=4k --iodepth=32 --io_size=100m --norandommap --randrepeat=1
measure randwrite 49 --bs=4k --iodepth=32 --io_size=100m --norandommap --randrepeat=1
measure read 7 --bs=1m --iodepth=4 --io_size=1g
measure write 48 --bs=1m --iodepth=4 --io_size=1g

# stream KEY OPTION...
stream() {
	key=$1
	shift
	iperf3 -c @HOST -P 8 -t 3 -f m "$@" >out || cat out
	awk -v key="$key" '/SUM.*receiver/ { print "RESULT", key, $6 }' out
}
stream out
stream in -R
busybox poweroff -f
