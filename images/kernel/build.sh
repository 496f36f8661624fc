#!/bin/sh
# build.sh OUT: build the guest kernel and leave OUT/vmlinux and OUT/release.
#
# The source is Debian's linux-source package, the configuration is the kernel's
# allnoconfig plus hull.config. The result depends on nothing else: build time,
# user and host are fixed, and two builds give the same bytes.
#
# Results are kept in ${XDG_CACHE_HOME:-~/.cache}/hull-build/kernel-HASH, where
# HASH covers every input (configuration, these scripts, versions of source,
# compiler and linker), so that a further clean checkout does not build again.
# The caches of other inputs are left alone; remove the folder to free its 30 MB.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
series=6.12
tarball=/usr/src/linux-source-$series.tar.xz

die() { echo "kernel: $*" >&2; exit 1; }

if [ "${1:-}" = "" ]; then die "usage: build.sh OUT"; fi
mkdir -p "$1"
out=$(cd "$1" && pwd)

[ -f "$tarball" ] || die "$tarball is missing: install linux-source-$series (make deps)"
for tool in flex bison bc gcc ld strip xz sha256sum flock patch; do
	command -v $tool >/dev/null || die "$tool is missing (make deps)"
done

# A make around this one must not pass its variables into the kernel's.
unset MAKEFLAGS MFLAGS MAKELEVEL ARCH CROSS_COMPILE CFLAGS LDFLAGS || true
export LC_ALL=C TZ=UTC

version=$(dpkg-query -W -f '${Version}' linux-source-$series 2>/dev/null) || version=unknown
stamp=$(stat -c %Y "$tarball")
hash=$({
	cat "$here/hull.config" "$here"/*.sh "$here"/patches/*.patch
	echo "$version $stamp $(stat -c %s "$tarball")"
	gcc --version | head -n 1
	ld --version | head -n 1
} | sha256sum | cut -c 1-16)

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hull-build
done=$cache/kernel-$hash
mkdir -p "$cache"

# copy puts the finished kernel into OUT, touching nothing that is already right.
copy() {
	for f in vmlinux release config; do
		cmp -s "$done/$f" "$out/$f" || { cp "$done/$f" "$out/$f.$$" && mv "$out/$f.$$" "$out/$f"; }
	done
	echo "kernel: $(cat "$out/release"), $(stat -c %s "$out/vmlinux") bytes, sha256 $(sha256sum <"$out/vmlinux" | cut -c 1-16)"
}

if [ -f "$done/release" ]; then
	copy
	exit 0
fi

# One build at a time; whoever waited finds it done.
exec 9>"$cache/kernel.lock"
flock 9
if [ -f "$done/release" ]; then
	copy
	exit 0
fi

work=$(mktemp -d "$cache/kernel-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "kernel: building linux-source-$series $version ($hash) with $(nproc) jobs; once, a few minutes"
started=$(date +%s)
# Documentation, other architectures and the largest driver trees are not compiled, but Kconfig and
# Makefiles refer to each other across the whole tree: leave out only their C files.
top=linux-source-$series
tar -C "$work" -xf "$tarball" --strip-components=1 --anchored --wildcards \
	--exclude="$top/drivers/gpu/*.[ch]" --exclude="$top/drivers/media/*.[ch]" --exclude="$top/drivers/staging/*.[ch]" \
	--exclude="$top/drivers/net/ethernet/*.[ch]" --exclude="$top/drivers/net/wireless/*.[ch]" \
	--exclude="$top/sound/*.[ch]" --exclude="$top/Documentation/*.rst" --exclude="$top/tools/testing/*" \
	--exclude="$top/arch/[a-tv-w]*/*.[chS]" --exclude='*.dts' --exclude='*.dtsi'
cd "$work"
for p in "$here"/patches/*.patch; do
	patch -s -p1 <"$p"
done

KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$stamp" '+%a %b %e %H:%M:%S %Z %Y')
KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=hull KBUILD_BUILD_HOST=hull
export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_VERSION KBUILD_BUILD_USER KBUILD_BUILD_HOST

# kernel_make ARG...: the kernel's make, with a compiler that can take headers compiled by compile_headers.
HULL_PCH=$work/.headers
export HULL_PCH
mkdir "$HULL_PCH"
kernel_make() { make -s -j"$(nproc)" CC="$here/cc.sh" "$@"; }

# compile_headers compiles those that nearly all files include, with the flags of a typical file.
compile_headers() {
	flags=$(sed -n 's/^savedcmd_[^ ]* := [^ ]* -Wp,-MMD[^ ]*\(.*\) -c -o .*/\1/p' init/.main.o.cmd |
		sed 's/ -include [^ ]*compiler-version\.h//; s/ -D\(__\)\?KBUILD_[^ ]*//g')
	{
		# cc.sh gives them the values of each file.
		echo '#define KBUILD_MODFILE "kernel"'
		echo '#define KBUILD_BASENAME "kernel"'
		echo '#define KBUILD_MODNAME "kernel"'
		echo '#define __KBUILD_MODNAME kmod_kernel'
		printf '#include <%s.h>\n' linux/kernel linux/module linux/slab linux/mm linux/fs linux/sched linux/uaccess \
			linux/netdevice linux/skbuff net/net_namespace net/sock net/tcp
	} >"$HULL_PCH/headers.h"
	eval "gcc $flags -x c-header $HULL_PCH/headers.h -o $HULL_PCH/common.h.gch" && : >"$HULL_PCH/common.h"
}

log=$cache/kernel-$hash.log
if ! {
	kernel_make KCONFIG_ALLCONFIG="$here/hull.config" allnoconfig &&
		"$here/check-config.sh" "$here/hull.config" .config &&
		kernel_make init/main.o && compile_headers &&
		kernel_make vmlinux
} >"$log" 2>&1; then
	tail -n 40 "$log" >&2
	die "build failed; all of its output: $log"
fi

mkdir "$work/result"
strip --strip-all -o "$work/result/vmlinux" vmlinux
chmod 644 "$work/result/vmlinux"
cp .config "$work/result/config"
kernel_make kernelrelease >"$work/result/release"
rm -rf "$done"
mv "$work/result" "$done"
rm -f "$log"
echo "kernel: built in $(($(date +%s) - started)) s"
copy
