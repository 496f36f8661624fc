#!/bin/sh
# Assembles marker.S into a static ELF file of some hundred bytes.
set -eu
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
as --64 -o "$tmp" marker.S
ld -n -z noexecstack -z max-page-size=4096 -e _start --strip-all -o marker.elf "$tmp"
objcopy --strip-all --remove-section=.note.gnu.property marker.elf
