#!/usr/bin/env bash
# Makes a release of the image in build/: release.sh [DIR], DIR being build/releases.
#
#   DIR/VERSION/slot                          what machines get to
#   DIR/VERSION/proa-VERSION.payload          all of it
#   DIR/VERSION/proa-VERSION-from-X.payload   the difference to each of the last releases
#   DIR/VERSION/release.json                  what they are, signed
#
# The last releases are those that stand in DIR. PROA_VERSION gives the version.
# Of the settings below each has what suits most; OMAHA_SERVER is where to publish.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."
. buildroot/release-tool.sh
. build/release-info

releases=${1:-build/releases}
app=${PROA_APP:-}
app=${app:-"{6b6d3a2e-0f5c-4c7e-9b1d-70726f610001}"}
# From how many earlier releases machines get a difference; others get all of it.
deltas=${PROA_DELTAS:-3}
# A release that nobody renews for so long is not taken any more: whoever keeps
# machines from newer ones cannot do so for ever.
expires_days=${PROA_EXPIRES_DAYS:-365}
# The lowest version that can take this one.
minimum=${PROA_MINIMUM:-0}

# The released versions below this one, the highest first. To `sort`, ~ comes before
# the end, as the - of a pre-release does in versions.
lower_versions() {
    ls "$releases" | sed s/-/~/ | sort -rV | sed s/~/-/ |
        awk -v this="$VERSION" 'seen; $0 == this { seen = 1 }'
}

keys=$(keys_folder)
dir=$releases/$VERSION
mkdir -p "$dir"
# What is published must not change under its name.
if [ -f "$dir/release.json" ]; then
    cmp -s build/slot "$dir/slot" ||
        { echo "release: $dir holds another $VERSION already; give another PROA_VERSION" >&2; exit 1; }
fi
cp build/slot "$dir/slot"

echo "== making the payloads of $VERSION"
"$release_tool" payload --new "$dir/slot" --rsa-key "$keys/payload-key.pem" -o "$dir/proa-$VERSION.payload"
signed=(--payload "$dir/proa-$VERSION.payload")
while read -r old; do
    [ -f "$releases/$old/release.json" ] || continue
    "$release_tool" payload --new "$dir/slot" --old "$releases/$old/slot" \
        --rsa-key "$keys/payload-key.pem" -o "$dir/proa-$VERSION-from-$old.payload"
    signed+=(--payload "$dir/proa-$VERSION-from-$old.payload" --from "$releases/$old/release.json")
done < <(lower_versions | head -n "$deltas")
"$release_tool" metadata --app "$app" --version "$VERSION" --slot "$dir/slot" --minimum "$minimum" \
    --expires-days "$expires_days" --trusted "$keys/keys.json" --key "$keys/release.pk8" \
    "${signed[@]}" -o "$dir/release.json"
"$release_tool" inspect "$dir/release.json"

if [ -n "${OMAHA_SERVER:-}" ]; then
    echo "== publishing $VERSION at $OMAHA_SERVER"
    "$(dirname "$release_tool")/proa" omahactl --endpoint "$OMAHA_SERVER" \
        release add "$dir"/*.payload --metadata "$dir/release.json"
fi
