#!/bin/sh
# cc.sh ARG...: gcc for the kernel's build, which compiles the headers that nearly every file of the
# kernel includes just once. They are most of the work: without this a build takes nearly twice as long.
#
# HULL_PCH is a folder: common.h is empty, and common.h.gch holds the headers of build.sh's list, compiled.
# A file whose compiler flags are not those of common.h.gch gets the empty common.h from gcc.
#
# The code is the same but for the order of some instructions that do not depend on each other.

for source; do :; done # the last argument
case $source in
# Files of arch run before there is paging, or outside of the kernel, and set macros that say so.
arch/* | scripts/* | tools/* | /*) exec gcc "$@" ;;
*.c) [ -e "$HULL_PCH/common.h.gch" ] || exec gcc "$@" ;;
*) exec gcc "$@" ;;
esac

# A file that sets macros before it includes headers means to change them.
awk '/^[ \t]*#[ \t]*(define|undef)[ \t]/ && $0 !~ /[ \t](pr|dev)_fmt\(/ { if (!set) set = NR }
	/^[ \t]*#[ \t]*include/ { last = NR }
	END { exit set && set < last }' "$source" || exec gcc "$@"

# gcc takes compiled headers only if no macro that occurs in them has another value on the command
# line; those with the file's name have to come after the headers.
macros=$HULL_PCH/$(echo "$source" | tr / _).h
text=
for arg; do
	shift
	case $arg in
	-DKBUILD_*=* | -D__KBUILD_*=*)
		arg=${arg#-D}
		text="$text
#undef ${arg%%=*}
#define ${arg%%=*} ${arg#*=}"
		;;
	*) set -- "$@" "$arg" ;;
	esac
done
echo "$text" >"$macros"

# A few have names of their own for what a header has that they do not include.
gcc -include "$HULL_PCH/common.h" "$@" -include "$macros" 2>/dev/null || exec gcc "$@" -include "$macros"
