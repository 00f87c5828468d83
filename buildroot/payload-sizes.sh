#!/usr/bin/env bash
# Holds the sizes of what machines download: payload-sizes.sh BINARY [OLD]
#
# The whole payload of a release with BINARY, and the difference from one that is
# the same but for its binary, OLD. Both are real builds: an unequal byte here and
# there would say nothing about what a linker does to code that moves.
#
# Without OLD it is the last other binary that this was run with on this machine,
# built by the same compiler from the same dependencies: in CI, that of an earlier
# commit. The first run has nothing to compare with, and says so. Only a named OLD
# is held to the limit: how much changed since just any commit is nobody's promise.
set -euo pipefail
binary=$(realpath "$1") old=${2:+$(realpath "$2")}
cd "$(dirname "$0")/.."
. buildroot/cache.sh
. buildroot/release-tool.sh

most_whole=$((60 << 20))
# In per cent of the whole payload.
most_difference=15

kept=$cache_root/release-binary-$({ rustc -V; cat Cargo.lock Cargo.toml; } | content_key)
mkdir -p "$kept" build
work=$(mktemp -d build/payload-sizes.XXXXXX)
trap 'rm -rf "$work"' EXIT

# Two are kept: the current one, so that a second run of the same finds the other.
if [ -z "$old" ]; then
    if [ -f "$kept/current" ] && ! cmp -s "$kept/current" "$binary"; then mv "$kept/current" "$kept/last"; fi
    cp "$binary" "$kept/current"
    [ ! -f "$kept/last" ] || old=$kept/last
fi

printf '#!/bin/sh\ninstall -m 755 "$BINARY" "$1/usr/bin/proa"\n' >"$work/hook"
chmod +x "$work/hook"
slot() { BINARY=$1 buildroot/variant.sh "$2" "$work/$2" "$work/hook" >/dev/null; }
payload() { # FILE OPTION..
    "$release_tool" payload --new "$work/0.0.2" --rsa-key "$(keys_folder)/payload-key.pem" -o "$work/payload" "$@"
    stat -c %s "$work/payload"
}
mib() { awk -v b="$1" 'BEGIN { printf "%.2f MiB", b / 1048576 }'; }

slot "$binary" 0.0.2
whole=$(payload)
echo "payload, whole: $(mib "$whole") of at most $(mib $most_whole)"
[ "$whole" -le $most_whole ] || { echo "the whole payload is over its budget" >&2; exit 1; }
if [ -z "$old" ]; then
    echo "payload, difference: no earlier binary on this machine to compare with"
    exit
fi
slot "$old" 0.0.1
difference=$(payload --old "$work/0.0.1")
share=$(awk -v d="$difference" -v w="$whole" 'BEGIN { printf "%.1f", 100 * d / w }')
echo "payload, difference in the binary alone: $(mib "$difference"), $share % of the whole, of at most $most_difference %"
[ $# -eq 1 ] || [ $((difference * 100)) -le $((whole * most_difference)) ] ||
    { echo "the difference is over its budget" >&2; exit 1; }
