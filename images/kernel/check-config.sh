#!/bin/sh
# check-config.sh FRAGMENT CONFIG: exit 1 and list each line of FRAGMENT that CONFIG does not hold.
#
# Kconfig drops an option whose dependency is missing without a word; the kernel
# would then lack a feature that some test in some guest misses much later.
set -eu
fragment=$1 config=$2
awk -v config="$config" '
	BEGIN { while ((getline line < config) > 0) have[line] = 1 }
	/^# CONFIG_[A-Z0-9_]+ is not set$/ { option = $2; if (is_set(option)) report(); next }
	/^CONFIG_[A-Z0-9_]+=n$/ { option = substr($0, 1, index($0, "=") - 1); if (is_set(option)) report(); next }
	/^CONFIG_/ { if (!($0 in have)) report() }
	function is_set(o,   l) { for (l in have) if (index(l, o "=") == 1) return 1; return 0 }
	function report() { print "kernel config: not honoured: " $0 > "/dev/stderr"; bad = 1 }
	END { exit bad }
' "$fragment"
