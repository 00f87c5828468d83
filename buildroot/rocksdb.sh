#!/usr/bin/env bash
# Builds RocksDB's C++ once and prints the folder that holds librocksdb.a.
#
# Compiling it takes about 25 CPU-minutes, and cargo would do it again for each
# profile and target folder. The result is kept outside the clone under a key
# made of everything it depends on: the crate, the compiler and the flags.
set -euo pipefail
cd "$(dirname "$0")/.."
. buildroot/cache.sh

# -Os: 43 % less code than -O3 for the same build time.
opt_level=s
key=$({
    grep -A3 '^name = "librocksdb-sys"' Cargo.lock
    g++ --version | head -n 1
    echo "opt-level=$opt_level"
    cat buildroot/rocksdb.sh
} | content_key)
out=$cache_root/rocksdb-$key

if [ ! -f "$out/librocksdb.a" ]; then
    echo "building RocksDB into $out (once, 12 to 15 minutes on 2 cores)" >&2
    mkdir -p "$out"
    work=$(mktemp -d "$cache_root/rocksdb-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=$opt_level \
        cargo build --release --locked -p librocksdb-sys --target-dir "$work" >&2
    built=$(find "$work" -path '*/out/librocksdb.a' | head -n 1)
    # Renamed last: a build that is cut off leaves no half archive behind.
    cp "$built" "$out/librocksdb.a.part"
    mv "$out/librocksdb.a.part" "$out/librocksdb.a"
fi
echo "$out"
