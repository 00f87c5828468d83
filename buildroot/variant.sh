#!/usr/bin/env bash
# Makes another release from the tree of the last image: variant.sh VERSION FILE [HOOK]
#
# HOOK is a program that is given a copy of the tree and may change anything in
# it. Takes seconds, for only the slot is made, not the disk. Prints the root hash.
set -euo pipefail
umask 022
[ $# -ge 2 ] || { echo "usage: variant.sh VERSION FILE [HOOK]" >&2; exit 2; }
version=$1 out=$(realpath -m "$2") hook=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.."
root=${PROA_ROOT:-build/root}
[ -d "$root" ] || { echo "variant: no tree at $root; \`make image\` makes it" >&2; exit 1; }
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/variant.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp -a "$root" "$work/root"
if [ -n "$hook" ]; then "$hook" "$work/root" >&2; fi
buildroot/slot.sh "$work/root" "$version" "$out"
