# Sourced by what makes or signs releases: the tool that does it, and the keys.
release_tool=${PROA_RELEASE:-$PWD/target/x86_64-unknown-linux-gnu/release/proa-release}
[ -x "$release_tool" ] || { echo "no program at $release_tool; \`make build\` makes it" >&2; exit 1; }

# The folder of the keys that releases are signed with, made when there is none.
# Who publishes keeps them elsewhere and safe: a machine takes only what is signed
# with the keys that its image was made with, or with their successors.
keys_folder() {
    local keys
    keys=$(realpath -m "${PROA_KEYS:-build/keys}")
    [ -f "$keys/keys.json" ] || "$release_tool" keygen "$keys" >&2
    echo "$keys"
}
