#!/bin/sh
# build.sh OUT: build the lab's QEMU and leave it as OUT/qemu-system-x86_64.
#
# It is the distribution's source package of the same version as its qemu-system-x86,
# with the distribution's patches and those beside this script, for one target and
# with nothing that the lab does not use. Firmware comes from the distribution's packages.
#
# Results are kept in ${XDG_CACHE_HOME:-~/.cache}/hull-build/qemu-HASH, where HASH covers
# every input, so that a further clean checkout does not build again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
package=qemu-system-x86

die() { echo "qemu: $*" >&2; exit 1; }

if [ "${1:-}" = "" ]; then die "usage: build.sh OUT"; fi
mkdir -p "$1"
out=$(cd "$1" && pwd)

for tool in apt-get cc meson ninja patch pkg-config sha256sum flock tar xz; do
	command -v $tool >/dev/null || die "$tool is missing (make deps)"
done
unset MAKEFLAGS MFLAGS MAKELEVEL CFLAGS LDFLAGS || true
export LC_ALL=C

version=$(dpkg-query -W -f '${source:Version}' $package 2>/dev/null) || die "$package is missing (make deps)"
hash=$({
	cat "$here/build.sh" "$here"/patches/*.patch
	echo "$version"
	cc --version | head -n 1
} | sha256sum | cut -c 1-16)

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hull-build
done=$cache/qemu-$hash
mkdir -p "$cache"

copy() {
	cmp -s "$done/qemu-system-x86_64" "$out/qemu-system-x86_64" ||
		{ cp "$done/qemu-system-x86_64" "$out/.$$" && mv "$out/.$$" "$out/qemu-system-x86_64"; }
	echo "qemu: $version with $(find "$here/patches" -name '*.patch' | wc -l) patch for the lab"
	exit 0
}
[ ! -f "$done/qemu-system-x86_64" ] || copy

# One build at a time; whoever waited finds it done.
exec 9>"$cache/qemu.lock"
flock 9
[ ! -f "$done/qemu-system-x86_64" ] || copy

work=$(mktemp -d "$cache/qemu-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"

echo "qemu: building $version ($hash) with $(nproc) jobs; once, a few minutes"
started=$(date +%s)

# The same archives that packages come from, asked for sources, with lists of our own:
# neither the system's configuration nor its lists change, and root is not needed.
mkdir -p apt/parts apt/lists/partial apt/cache/archives/partial source
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
	[ -f "$list" ] && sed -n 's/^deb[[:space:]]/deb-src /p' "$list" >"apt/parts/$(basename "$list" .list).list"
done
for list in /etc/apt/sources.list.d/*.sources; do
	[ -f "$list" ] && sed 's/^Types:.*/Types: deb-src/' "$list" >"apt/parts/$(basename "$list")"
done
apt() {
	apt-get -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/apt/parts" \
		-o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
# An archive that has no sources does not matter, if another has the one that is wanted.
apt update >apt.log 2>&1 || true
(cd source && apt source --download-only "qemu=$version") >>apt.log 2>&1 ||
	{ tail -n 20 apt.log >&2; die "no source of qemu $version: is the distribution's archive reachable?"; }

tar -xf source/qemu_*.orig.tar.* --strip-components=1
tar -xf source/qemu_*.debian.tar.*
while read -r p _; do
	case $p in '' | \#*) ;; *) patch -s -p1 <"debian/patches/$p" ;; esac
done <debian/patches/series
for p in "$here"/patches/*.patch; do
	patch -s -p1 <"$p"
done

log=$cache/qemu-$hash.log
mkdir build
if ! {
	cd build &&
		../configure --target-list=x86_64-softmmu --without-default-features --enable-tcg --enable-vhost-user \
			--enable-fdt=system --disable-install-blobs --disable-debug-info \
			--prefix=/usr/local --firmwarepath=/usr/share/qemu:/usr/share/seabios &&
		ninja qemu-system-x86_64
} >"$log" 2>&1; then
	tail -n 40 "$log" >&2
	die "build failed; all of its output: $log"
fi
cd "$work"

mkdir result
strip -o result/qemu-system-x86_64 build/qemu-system-x86_64
chmod 755 result/qemu-system-x86_64
rm -rf "$done"
mv result "$done"
rm -f "$log"
echo "qemu: built in $(($(date +%s) - started)) s"
copy
