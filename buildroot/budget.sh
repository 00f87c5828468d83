#!/usr/bin/env bash
# Holds the sizes that users are promised: buildroot/budget.sh BINARY
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$1
mib=$((1024 * 1024))
most_binary=$((14 * mib))
most_image=$((36 * mib))

check() { # name bytes limit
    echo "$1: $(awk -v b="$2" 'BEGIN { printf "%.1f", b / 1048576 }') MiB of at most $(($3 / mib)) MiB"
    [ "$2" -le "$3" ] || { echo "$1 is over its budget" >&2; exit 1; }
}

file "$binary" | grep -q 'static-pie linked' || { echo "$binary is not static" >&2; exit 1; }
check "binary" "$(stat -c %s "$binary")" "$most_binary"
check "image to download" "$(stat -c %s build/proa.img.*)" "$most_image"
