#!/bin/sh
# Assembles the guest into a PVH kernel of some hundred bytes.
set -eu
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
as --64 -o "$tmp" guest.S
objcopy --remove-section=.note.gnu.property "$tmp"
ld -n --no-warn-rwx-segments -z noexecstack -z max-page-size=16 -Ttext=0x100000 -e _start --strip-all -o guest.elf "$tmp"
