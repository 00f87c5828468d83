#!/usr/bin/env bash
# A release whose kernel is loaded and then cannot unpack itself. The header has
# another name and is sound: what only had to be refused when loaded would be another, easier case.
set -euo pipefail
"$(dirname "$0")/kernel-other.sh" "$1"
kernel=$1/usr/lib/proa/vmlinuz
head -c 4096 /dev/zero | tr '\0' '\377' |
    dd of="$kernel" bs=4096 seek=$(($(stat -c %s "$kernel") / 8192)) conv=notrunc status=none
