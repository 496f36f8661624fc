#!/bin/sh
# Assembles every guest here into an ELF file beside the Go package.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
for s in *.S; do
	as --64 -o "$tmp" "$s"
	objcopy --remove-section=.note.gnu.property "$tmp"
	ld -n -z noexecstack -z max-page-size=16 -Ttext=0x100000 -e _start --strip-all -o "../${s%.S}.elf" "$tmp"
done
