#!/usr/bin/env bash
# Builds the kernel once and prints the folder that holds bzImage.
#
# Our own configuration of Debian's linux-source-6.12 with everything built in:
# half the boot time and a quarter of the size of the packaged one. Kept outside
# the clone under a key of everything it depends on.
set -euo pipefail
cd "$(dirname "$0")/.."
. buildroot/cache.sh

source_tar=/usr/src/linux-source-6.12.tar.xz
key=$({
    dpkg-query -W -f '${Version}\n' linux-source-6.12
    gcc --version | head -n 1
    cat buildroot/kernel.fragment buildroot/kernel.sh
} | content_key)
out=$cache_root/kernel-$key

mkdir -p "$cache_root"
# Whoever comes second waits for the first and finds the kernel made.
exec 9>"$cache_root/kernel.lock"
flock 9
if [ ! -f "$out/bzImage" ]; then
    echo "building the kernel into $out (once, about 10 minutes on 2 cores)" >&2
    mkdir -p "$out"
    work=$(mktemp -d "$cache_root/kernel-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    tar -xf "$source_tar" -C "$work" --strip-components=1
    # Fixed names and time: the same input gives the same kernel.
    export KBUILD_BUILD_TIMESTAMP='2025-01-01 00:00:00' KBUILD_BUILD_USER=proa KBUILD_BUILD_HOST=proa
    # Each kernel has a name of its own: /init tells by it whether the slot it
    # starts has the kernel that runs.
    export LOCALVERSION=-$key
    {
        make -C "$work" tinyconfig
        (cd "$work" && scripts/kconfig/merge_config.sh -m .config "$OLDPWD/buildroot/kernel.fragment")
        make -C "$work" olddefconfig
        make -C "$work" -j"$(nproc)" bzImage
    } >"$out/build.log" 2>&1 || { tail -n 30 "$out/build.log" >&2; exit 1; }
    cp "$work/.config" "$out/config"
    cp "$work/arch/x86/boot/bzImage" "$out/bzImage.part"
    mv "$out/bzImage.part" "$out/bzImage"
fi
echo "$out"
