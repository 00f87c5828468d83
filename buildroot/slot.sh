#!/usr/bin/env bash
# Packs a tree as one release of the system: slot.sh TREE VERSION FILE
#
# FILE gets what a slot partition holds: a squashfs, and behind it the hash tree
# that dm-verity checks it with. Prints the root hash, the name of what is in it.
#
# Nothing is compressed, so that what is equal in two releases is equal byte by
# byte: an update then sends the difference. What travels is compressed there.
set -euo pipefail
umask 022
tree=$(realpath "$1") version=$2 out=$(realpath -m "$3")
cd "$(dirname "$0")/.."
. buildroot/release-tool.sh

fail() { echo "slot: $*" >&2; exit 1; }

# As the machines' updater reads it: numbers with dots, then perhaps -pre or +build.
[[ $version =~ ^[0-9]+(\.[0-9]+){0,3}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$ ]] ||
    fail "bad version '$version': give it like 1.2.3 or 1.2.3-rc1"

# The size of a slot partition, set in image.sh.
most_bytes=$((${PROA_SLOT_MIB:-192} << 20))
export SOURCE_DATE_EPOCH=1735689600 TZ=UTC

cat >"$tree/usr/lib/os-release" <<ENDFILE
ID=proa
NAME=Proa
PRETTY_NAME="Proa $version"
VERSION_ID=$version
IMAGE_ID=proa
IMAGE_VERSION=$version
ENDFILE
find "$tree" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

order=$(mktemp)
trap 'rm -f "$order"' EXIT
# Files of the lowest priority come last: what changes with each release stands
# where a change of its length moves nothing else.
cat >"$order" <<ENDFILE
usr/lib/proa/vmlinuz -100
usr/share/proa/keys.json -200
usr/lib/os-release -200
usr/bin/proa -300
ENDFILE
rm -f "$out" "$out.part"
mksquashfs "$tree" "$out.part" -quiet -no-progress -all-root -noappend -no-xattrs -no-exports \
    -no-fragments -noI -noD -noF -noX -comp zstd -sort "$order" >/dev/null
"$release_tool" seal "$out.part" --version "$version"
[ "$(stat -c %s "$out.part")" -le $most_bytes ] ||
    fail "the root file system is larger than a slot of $((most_bytes >> 20)) MiB"
mv "$out.part" "$out"
