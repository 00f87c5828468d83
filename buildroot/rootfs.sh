#!/usr/bin/env bash
# Makes the root file system's tree: rootfs.sh BINARY KERNEL KEYS DIR
#
# Debian trixie packages are unpacked, never installed, and only what files.txt
# lists is copied, with the libraries it needs. overlay/ and units/ come on top,
# then the binary and its links, the kernel that the binary starts in place of
# another, and the public keys of those whose updates it takes. No root rights are
# needed: owners are set when the tree is packed. It gets its version then, too.
set -euo pipefail
binary=$(realpath "$1")
kernel=$(realpath "$2")
keys=$(realpath "$3")
tree=$4
cd "$(dirname "$0")/.."
. buildroot/cache.sh

fail() { echo "rootfs: $*" >&2; exit 1; }
list() { grep -v -e '^#' -e '^$' "$1"; }

suites='deb http://deb.debian.org/debian trixie main
deb http://deb.debian.org/debian-security trixie-security main'

# Prints the folder with the unpacked packages, downloading them once.
debian_tree() {
    local key out work packages
    packages=$(list buildroot/packages.txt | paste -sd ,)
    key=$({ echo "$packages"; echo "$suites"; } | content_key)
    out=$cache_root/debian-$key
    if [ ! -d "$out" ]; then
        echo "downloading Debian packages into $out" >&2
        mkdir -p "$cache_root"
        work=$(mktemp -d "$cache_root/debian-build.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        # `extract` runs no maintainer script: nothing needs a chroot.
        echo "$suites" | mmdebstrap --quiet --variant=extract --architectures=amd64 \
            --aptopt='Acquire::Retries "3"' --include="$packages" trixie "$work/packages.tar" - >"$work/log" 2>&1 ||
            { tail -n 20 "$work/log" >&2; fail "mmdebstrap could not fetch the packages"; }
        mkdir "$work/tree"
        tar -xf "$work/packages.tar" -C "$work/tree" --no-same-owner --exclude='./dev/*'
        chmod -R u+rwX "$work/tree"
        mv "$work/tree" "$out"
        rm -rf "$work"
        trap - EXIT
    fi
    echo "$out"
}

# Copies one path of the packages and, when it is a link, what it points to.
copy() {
    local path=$1 target
    [ -e "$tree/$path" ] || [ -L "$tree/$path" ] && return 0
    mkdir -p "$tree/$(dirname "$path")"
    cp -dp "$debian/$path" "$tree/$path"
    if [ -L "$debian/$path" ]; then
        target=$(readlink "$debian/$path")
        case $target in
        /*) copy "${target#/}" ;;
        *) copy "$(realpath -ms --relative-to="$debian" "$debian/$(dirname "$path")/$target")" ;;
        esac
    fi
}

copy_listed() {
    local pattern matches path
    while read -r pattern; do
        matches=$(cd "$debian" && compgen -G "$pattern") || fail "files.txt: $pattern matches nothing"
        while read -r path; do copy "$path"; done <<<"$matches"
    done < <(list buildroot/files.txt)
}

# Copies the libraries that the programs need, and those that these need.
copy_libraries() {
    local todo file library found
    mapfile -t todo < <(cd "$tree" && find usr/bin usr/lib -type f \( -perm /111 -o -name '*.so*' \))
    while [ ${#todo[@]} -gt 0 ]; do
        file=${todo[0]}
        todo=("${todo[@]:1}")
        while read -r library; do
            found=
            for folder in usr/lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu/systemd; do
                [ -e "$debian/$folder/$library" ] && found=$folder/$library && break
            done
            [ -n "$found" ] || fail "$file needs $library, which no package has"
            [ -e "$tree/$found" ] && continue
            copy "$found"
            todo+=("$found")
        done < <(objdump -p "$tree/$file" 2>/dev/null | sed -n 's/^ *NEEDED *//p')
    done
    copy usr/lib64/ld-linux-x86-64.so.2
}

# The CAs that whoever dials with TLS trusts unless told otherwise: one file, as
# the package's maintainer script would make it.
gather_cas() {
    mkdir -p "$tree/etc/ssl/certs"
    cat "$debian"/usr/share/ca-certificates/mozilla/*.crt >"$tree/etc/ssl/certs/ca-certificates.crt"
}

# The folders that Debian's base-files would make.
lay_out() {
    local folder
    mkdir -p "$tree"/{boot,dev,etc,mnt,proc,run,sys,tmp,usr/bin,usr/lib,usr/lib64,var}
    for folder in bin lib lib64; do ln -s "usr/$folder" "$tree/$folder"; done
    ln -s bin "$tree/usr/sbin"
    ln -s usr/bin "$tree/sbin"
    for folder in home opt root srv; do ln -s "var/$folder" "$tree/$folder"; done
    ln -s /proc/net/pnp "$tree/etc/resolv.conf"
    ln -s /proc/self/mounts "$tree/etc/mtab"
    ln -s ../usr/lib/os-release "$tree/etc/os-release"
}

# systemd's own names first, then busybox for whatever nobody else provides.
link_tools() {
    local tool
    for tool in halt poweroff reboot shutdown; do ln -s systemctl "$tree/usr/bin/$tool"; done
    ln -s ../lib/systemd/systemd "$tree/usr/bin/init"
    while read -r tool; do
        [ -e "$tree/usr/bin/$tool" ] || ln -s busybox "$tree/usr/bin/$tool"
    done < <("$debian/usr/bin/busybox" --list)
}

# Keeps Debian's own choice of what starts by itself, for the units that are here.
enable_units() {
    local system=$tree/usr/lib/systemd/system link unit target wants
    while read -r link; do
        unit=$(basename "$link")
        [ -e "$system/$unit" ] || continue
        mkdir -p "$system/$(dirname "$link")"
        ln -sf "../$unit" "$system/$link"
    done < <(cd "$debian/usr/lib/systemd/system" && find . -path '*.wants/*' -type l)
    for unit in buildroot/units/*; do
        unit=$(basename "$unit")
        for target in $(sed -n 's/^WantedBy=//p' "buildroot/units/$unit"); do
            wants=$system/$target.wants
            mkdir -p "$wants"
            ln -sf "../$unit" "$wants/$unit"
        done
    done
    ln -sf multi-user.target "$system/default.target"
}

# A unit whose program is missing would fail at each boot, in nobody's sight.
check_units() {
    local unit program
    for unit in "$tree"/usr/lib/systemd/system/*.service; do
        while read -r program; do
            case $program in
            /*) [ -e "$tree$program" ] || [ -L "$tree$program" ] ;;
            *) [ -e "$tree/usr/bin/$program" ] ;;
            esac || fail "$(basename "$unit") starts $program, which is not in the image"
        done < <(sed -nE 's/^ExecStart=[-@:+!|]*([^ ]+).*/\1/p' "$unit")
    done
}

debian=$(debian_tree)
rm -rf "$tree"
mkdir -p "$tree"
tree=$(realpath "$tree")
lay_out
copy_listed
copy_libraries
gather_cas
link_tools
cp -r buildroot/overlay/. "$tree/"
cp buildroot/units/* "$tree/usr/lib/systemd/system/"
install -m 755 "$binary" "$tree/usr/bin/proa"
"$binary" --install-links "$tree"
enable_units
check_units
install -Dm 644 "$kernel" "$tree/usr/lib/proa/vmlinuz"
install -Dm 644 "$keys/keys.json" "$tree/usr/share/proa/keys.json"
install -Dm 644 "$keys/update-payload-key.pub.pem" "$tree/usr/share/update_engine/update-payload-key.pub.pem"
echo "$debian"
