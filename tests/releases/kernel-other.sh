#!/usr/bin/env bash
# A good release with another kernel: the same code by another name, so that a
# machine has to start it.
set -euo pipefail
kernel=$1/usr/lib/proa/vmlinuz
# The boot protocol has the place of the name, counted from 0x200, at 0x20e.
at=$((0x200 + $(od -An -tu2 -j $((0x20e)) -N 2 "$kernel")))
printf '9' | dd of="$kernel" bs=1 seek=$at conv=notrunc status=none
