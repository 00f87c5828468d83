#!/usr/bin/env bash
# Makes the disk image: image.sh BINARY [DIR], DIR being build/ unless named.
#
#   vmlinuz, initrd   the kernel and the binary as /init, for direct kernel boot
#   slot              the root file system as a slot partition holds it
#   proa.img          the disk: boot partition with kernel and initrd, two slots, state
#   proa.img.zst      the same, to download
#   release-info      what the slot holds: its version and root hash
#   root/             the tree that the slot was packed from, for variant.sh
#
# PROA_VERSION is the version that the system says it has, the workspace's unless
# set. PROA_KEYS is the folder of the keys whose updates it takes, build/keys unless
# set; they are made when there are none.
#
# Everything is made from plain files: no loop device, no mount, no root.
set -euo pipefail
umask 022
[ $# -ge 1 ] || { echo "usage: image.sh BINARY [DIR]" >&2; exit 2; }
[ -x "$1" ] || { echo "image: no program at $1; \`make build\` makes it" >&2; exit 1; }
binary=$(realpath "$1")
out=${2:-$(dirname "$0")/../build}
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "$0")/.."

# The same input gives the same image, so no time of day may get into it.
export SOURCE_DATE_EPOCH=1735689600 E2FSPROGS_FAKE_TIME=1735689600 TZ=UTC

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

version=${PROA_VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}

# Sizes in MiB. The slots leave room for a container runtime.
esp_start=1 esp_size=64
slot_size=192 slot_a_start=65 slot_b_start=257
state_start=449 state_size=512
disk_size=962

# `gpt`: with a damaged primary table Linux would otherwise show no partition at
# all, instead of using the backup.
# `memmap`, `ramoops`: a piece of memory that a restart leaves alone, for what the
# console said before it. Its place is fixed, for one that the kernel chooses
# (reserve_mem) is where it keeps things while it starts, and would not survive that.
# `watchdog.stop_on_reboot=0`: the watchdog goes on while one kernel starts another,
# which may be a bad one, and while a machine restarts.
cmdline='console=tty0 console=ttyS0 net.ifnames=0 gpt memmap=1M$0x8000000'
cmdline+=' ramoops.mem_address=0x8000000 ramoops.mem_size=0x100000 ramoops.console_size=0x10000'
cmdline+=' watchdog.stop_on_reboot=0'

# Not compressed: the binary is in the slot as well, and what is there twice costs
# the download nothing as long as both are the same bytes.
make_initrd() {
    local root=$work/initrd
    mkdir -p "$root"/{dev,proc,sys,run,sysroot}
    install -m 755 "$binary" "$root/init"
    find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
    (cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$out/initrd"
}

# A unified kernel image: the stub of systemd-boot with the kernel, the initrd and
# the command line as sections behind its own, each on a page of its own.
make_boot_program() {
    local stub=$1 address name size
    local -a options=()
    printf '%s' "$cmdline" >"$work/cmdline"
    address=$(objdump -h "$stub" | awk 'NF == 7 { print $3, $4 }' | while read -r size start; do
        echo $((16#$size + 16#$start))
    done | sort -n | tail -n 1)
    for name in osrel:"$out/root/usr/lib/os-release" cmdline:"$work/cmdline" \
        initrd:"$out/initrd" linux:"$out/vmlinuz"; do
        address=$(((address + 4095) / 4096 * 4096))
        options+=(--add-section ".${name%%:*}=${name#*:}"
            --change-section-vma ".${name%%:*}=$(printf 0x%x "$address")")
        size=$(stat -c %s "${name#*:}")
        address=$((address + size))
    done
    objcopy "${options[@]}" "$stub" "$work/BOOTX64.EFI"
}

make_esp() {
    truncate -s "${esp_size}M" "$work/esp"
    mkfs.vfat -n ESP -i 50524f41 "$work/esp" >/dev/null
    touch -d "@$SOURCE_DATE_EPOCH" "$work/BOOTX64.EFI"
    mmd -i "$work/esp" ::/EFI ::/EFI/BOOT
    mcopy -m -i "$work/esp" "$work/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
}

make_slot() {
    root_hash=$(PROA_SLOT_MIB=$slot_size buildroot/slot.sh "$out/root" "$version" "$out/slot")
    cat >"$out/release-info" <<END
VERSION=$version
ROOT_HASH=$root_hash
SLOT_BYTES=$(stat -c %s "$out/slot")
END
}

make_state() {
    truncate -s "${state_size}M" "$work/state"
    mkfs.ext4 -q -L STATE -U 70726f61-0000-4000-8000-000000000009 \
        -E hash_seed=70726f61-0000-4000-8000-000000000000,root_owner=0:0 "$work/state"
}

# Slot attributes, as ChromeOS and CoreOS have them: bits 48-51 priority, 52-55
# tries left, 56 successful. A is good at priority 1; B is empty and not bootable.
partition() {
    local slot=5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6
    rm -f "$work/disk"
    truncate -s "${disk_size}M" "$work/disk"
    sfdisk -q "$work/disk" <<END
label: gpt
label-id: 70726f61-0000-4000-8000-000000000000
1: start=${esp_start}MiB, size=${esp_size}MiB, type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b, name=EFI-SYSTEM, uuid=70726f61-0000-4000-8000-000000000001
3: start=${slot_a_start}MiB, size=${slot_size}MiB, type=$slot, name=SLOT-A, uuid=70726f61-0000-4000-8000-000000000003, attrs="GUID:48,56"
4: start=${slot_b_start}MiB, size=${slot_size}MiB, type=$slot, name=SLOT-B, uuid=70726f61-0000-4000-8000-000000000004
9: start=${state_start}MiB, size=${state_size}MiB, type=4d21b016-b534-45c2-a9fb-5c16e091fd2d, name=STATE, uuid=70726f61-0000-4000-8000-000000000009
END
}

place() { dd if="$1" of="$work/disk" bs=1M seek="$2" conv=notrunc,sparse status=none; }

. buildroot/cache.sh
. buildroot/release-tool.sh
kernel=$(buildroot/kernel.sh)
keys=$(keys_folder)
# Compressing takes the most of a minute, so nothing is made again from the same things.
key=$({
    cat "$binary" "$kernel/bzImage" "$keys/keys.json" "$keys/update-payload-key.pub.pem" "$release_tool"
    echo "$version"
    find buildroot -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
} | content_key)
complete=yes
for file in vmlinuz initrd slot proa.img proa.img.zst release-info root/usr/bin/proa; do
    [ -f "$out/$file" ] || complete=no
done
if [ $complete = yes ] && [ "$(cat "$out/image.key" 2>/dev/null)" = "$key" ]; then
    echo "image: $out/proa.img is up to date"
    exit
fi
rm -f "$out/image.key"
cp "$kernel/bzImage" "$out/vmlinuz"
debian=$(buildroot/rootfs.sh "$binary" "$kernel/bzImage" "$keys" "$out/root")
make_initrd
make_slot
make_boot_program "$debian/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
make_esp
make_state
partition
place "$work/esp" $esp_start
place "$out/slot" $slot_a_start
place "$work/state" $state_start
mv "$work/disk" "$out/proa.img"
# A window of 128 MiB reaches from the slot back to the kernel and the binary in the
# boot partition, so these are in the download once.
zstd -q -f -T0 -12 --long=27 "$out/proa.img" -o "$out/proa.img.zst"
echo "$key" >"$out/image.key"

echo "image: kernel $(stat -c %s "$out/vmlinuz"), initrd $(stat -c %s "$out/initrd")," \
    "root $(stat -c %s "$out/slot"), download $(stat -c %s "$out/proa.img.zst") bytes"
echo "image: $out/proa.img, version $version, root hash $root_hash"
