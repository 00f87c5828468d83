#!/usr/bin/env bash
# Fetches the real etcd that the tests compare with: Debian's 3.4 (bookworm) and
# 3.5 (trixie), server and client. Prints one line a version: "3.4 FOLDER".
#
# The packages are unpacked into the cache folder and never installed, so nothing
# starts and no root rights are needed: apt works on lists and archives of its
# own there, with this machine's mirror and proxy and Debian's signing keys.
set -euo pipefail
cd "$(dirname "$0")/.."
. buildroot/cache.sh

# Version wanted, suite that has it. Another pair is another key.
peers='3.4 bookworm
3.5 trixie'
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() { echo "peers: $*" >&2; exit 1; }

out=$cache_root/peers-$({ echo "$peers"; cat buildroot/peers.sh; } | content_key)

# The mirror that this machine gets Debian itself from.
mirror() {
    local found
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)
    echo "${found:-http://deb.debian.org/debian/}"
}

# fetch VERSION SUITE: leaves the unpacked packages in $work/VERSION.
fetch() {
    local version=$1 suite=$2 apt package archive exact
    apt=$work/apt-$suite
    mkdir -p "$apt"/{lists,archives}/partial "$work/$version"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$apt/sources.list"
    touch "$apt/status"
    local options=(
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status"
        -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives"
        -o Acquire::Languages=none -o Acquire::Retries=3
        # The folder belongs to who runs this; apt's own user could not write there.
        -o APT::Sandbox::User="$(id -un)"
    )
    apt-get -qq "${options[@]}" update
    for package in etcd-server etcd-client; do
        exact=$(apt-cache "${options[@]}" madison "$package" |
            awk -v want="$version." 'index($3, want) == 1 && !found { found = 1; print $3 }')
        [ -n "$exact" ] || fail "$suite of $mirror has no $package $version"
        (cd "$apt" && apt-get -qq "${options[@]}" download "$package=$exact")
        archive=$(echo "$apt/${package}"_*.deb)
        dpkg-deb --extract "$archive" "$work/$version"
        echo "$package $exact" >>"$work/$version/packages"
    done
}

if [ ! -d "$out" ]; then
    [ -f "$keyring" ] || fail "no $keyring; buildroot/setup.sh installs it"
    echo "fetching Debian's etcd 3.4 and 3.5 into $out (once, 30 MB)" >&2
    mkdir -p "$cache_root"
    work=$(mktemp -d "$cache_root/peers-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mirror=$(mirror)
    while read -r version suite; do
        fetch "$version" "$suite" >"$work/log" 2>&1 ||
            { tail -n 15 "$work/log" >&2; fail "could not fetch etcd $version of Debian $suite"; }
    done <<<"$peers"
    rm -rf "$work"/apt-* "$work/log"
    # Renamed last: a fetch that is cut off leaves no half folder behind.
    mv "$work" "$out"
    chmod 755 "$out"
    trap - EXIT
fi
while read -r version _; do
    echo "$version $out/$version"
done <<<"$peers"
