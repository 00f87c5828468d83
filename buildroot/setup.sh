#!/usr/bin/env bash
# Installs what building and running needs and is not there yet, from Debian's own
# packages. Says what it installs; says nothing when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    # the compiler for RocksDB, and what its bindings are made with
    g++ make libclang-14-dev
    # the kernel
    linux-source-6.12 bc binutils bison flex libelf-dev xz-utils zstd
    # the root file system and the disk image
    ca-certificates cpio debian-archive-keyring dosfstools e2fsprogs fdisk mmdebstrap mtools squashfs-tools uidmap
    # the keys that payloads are signed with
    openssl
    # running it
    qemu-system-x86
    # the bus that tests meet the daemons on, and the clients of others on it
    bsdutils dbus-daemon libglib2.0-bin systemd
    # what the tests compare with
    cgpt etcd-client etcd-server file gdisk
    # the networks of the clients that the tests run
    iproute2 util-linux protobuf-compiler libprotobuf-dev
)
# What may be there from elsewhere than Debian, which would then refuse its own.
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            { echo "setup: not root and no sudo; as root: apt-get install ${missing[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "== installing ${missing[*]}"
    install() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1
    }
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # The package lists of a fresh machine are missing, those of an old one stale.
    if ! install; then
        "${as_root[@]}" apt-get -qq update
        install || { tail -n 15 "$log" >&2; echo "setup: apt-get could not install ${missing[*]}" >&2; exit 1; }
    fi
    # The package starts a store of its own on this host, which nobody asked for.
    if [[ " ${missing[*]} " == *" etcd-server "* ]] && [ -d /run/systemd/system ]; then
        "${as_root[@]}" systemctl --quiet disable --now etcd.service || true
    fi
fi

command -v cargo >/dev/null || { echo "setup: no cargo; install Rust from https://rustup.rs" >&2; exit 1; }
oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
found=$(cargo --version | cut -d' ' -f2)
printf '%s\n' "$oldest" "$found" | sort -VC ||
    { echo "setup: cargo is $found, at least $oldest is needed; rustup update brings it" >&2; exit 1; }
