#!/usr/bin/env bash
# Runs clients of etcd as their users get them, with their own tests where their
# packages have them: run.sh [proa|3.4|3.5] [CLIENT...]
#
# PROA_BIN is the program under test. Each client has a network of its own, where
# the ports that its tests name are free, and all run side by side. A client that
# cannot be installed is a failure, never a skip. Counts: README.md beside this.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. buildroot/cache.sh

all=(python-etcd3 npm-etcd3 rust-etcd-client python-etcd npm-node-etcd)
# Nothing here takes longer on two busy cores.
limit_s=900

fail() { echo "clients: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "no $1: install the package $2"; }

# once NAME COMMAND...: runs COMMAND with the folder to fill, if it is not there yet.
once() {
    local out=$cache_root/clients-$1 work
    shift
    mkdir -p "$cache_root"
    # Two clients may need the same folder at once.
    exec 9>"$out.lock"
    flock 9
    if [ ! -d "$out" ]; then
        echo "clients: preparing $out" >&2
        rm -rf "$out.part"
        "$@" "$out.part" >"$out.log" 2>&1 || { tail -n 15 "$out.log" >&2; fail "could not prepare $out"; }
        mv "$out.part" "$out"
    fi
    exec 9>&-
    echo "$out"
}

# python_client FOLDER PACKAGE OUT: an environment with PACKAGE, and its source
# for the tests. The environment is moved: its programs are started by its python.
python_client() {
    local dir=$1 source=$2 out=$3
    mkdir "$out"
    python3 -m venv "$out/venv"
    "$out/venv/bin/python" -m pip install --quiet --require-hashes -r "$here/$dir/requirements.txt"
    grep "^$source==" "$here/$dir/requirements.txt" >"$out/source.txt"
    "$out/venv/bin/python" -m pip download --quiet --no-deps --no-binary :all: --require-hashes -r "$out/source.txt" -d "$out"
    tar -xf "$out"/"$source"-*.tar.gz -C "$out" --strip-components=1 --no-same-owner
}

npm_clients() {
    mkdir "$1"
    cp "$here"/npm/package*.json "$1"
    # The scripts of packages would compile; what they need is in the archives.
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund
}

# The crate as it was published, with its tests, and with its own lock file.
rust_client() {
    local manifest
    manifest=$(cargo metadata --locked --format-version 1 --manifest-path "$here/rust/Cargo.toml" |
        python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "etcd-client"))')
    cp -r "$(dirname "$manifest")" "$1"
    chmod -R u+w "$1"
    # The folder is renamed afterwards; what is run is found by name then.
    (cd "$1" && cargo test --locked --no-run --test client --test namespace --target-dir target)
}

key() { cat "$here/run.sh" "$@" | content_key; }

# Starts the store on etcd's own ports and waits until it serves.
serve() {
    etcd --data-dir "$scratch/data" >"$scratch/etcd.log" 2>&1 &
    server=$!
    trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$scratch"' EXIT
    for _ in $(seq 150); do
        ETCDCTL_API=3 etcdctl endpoint health >/dev/null 2>&1 && return
        kill -0 $server 2>/dev/null || { cat "$scratch/etcd.log"; fail "the store did not start"; }
        sleep 0.2
    done
    tail -n 20 "$scratch/etcd.log"
    fail "the store does not serve"
}

# What each client's tests are. Left out is only what fails with the real etcd
# 3.4 too; README.md says why.
client_python-etcd3() {
    local out left_out=test_user_pwd_auth
    out=$(once "python-etcd3-$(key "$here/python-etcd3/requirements.txt")" python_client python-etcd3 etcd3)
    cd "$out"
    TEST_ETCD_VERSION=v3.4.23 isolated "$out/venv/bin/python" "$out/venv/bin/pifpaf" -e PYTHON run etcd --cluster -- \
        "$out/venv/bin/python" -m pytest -q -p no:warnings -p no:cacheprovider --tb=short tests -k "not ($left_out)"
}
client_python-etcd() {
    local out left_out=test_get_set_authenticated
    out=$(once "python-etcd-$(key "$here/python-etcd/requirements.txt")" python_client python-etcd python-etcd)
    cd "$out/src/etcd"
    isolated "$out/venv/bin/python" -m pytest -q -p no:warnings -p no:cacheprovider --tb=short tests/integration \
        -k "not ($left_out)"
}
client_npm-etcd3() { npm_test etcd3; }
client_npm-node-etcd() { npm_test node-etcd node-etcd-stats; }
npm_test() {
    local out
    out=$(once "npm-$(key "$here"/npm/package*.json)" npm_clients)
    NODE_PATH=$out/node_modules isolated bash -c "$(declare -f serve fail); serve; cd '$here/npm/test'; node --test --test-reporter=spec ${*/%/.test.cjs}"
}

client_rust-etcd-client() {
    local out
    out=$(once "rust-$(key "$here"/rust/Cargo.*)" rust_client)
    # The user and the short life of tokens that its tests take for granted.
    local users='etcdctl role add root && etcdctl user add root:rootpwd && etcdctl user grant-role root root'
    local tests="for test in client namespace; do \$(find '$out/target/debug/deps' -name \"\$test-*\" -executable -type f); done"
    ETCD_AUTH_TOKEN_TTL=2 ETCDCTL_API=3 isolated bash -c "set -e; $(declare -f serve fail); serve; $users; $tests"
}

# In a network of its own, if the machine allows that; else the ports must be free.
isolated() {
    if unshare --user --map-root-user --net true 2>/dev/null; then
        unshare --user --map-root-user --net -- bash -c 'ip link set lo up && exec "$@"' -- "$@"
    else
        "$@"
    fi
}

# One client, in a process of its own.
if [ "${1:-}" = --one ]; then
    scratch=$(mktemp -d)
    whose=$3
    export scratch
    trap 'rm -rf "$scratch"' EXIT
    "client_$2"
    exit
fi

whose=${1:-proa}
shift || true
clients=("${@:-${all[@]}}")
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
case $whose in
proa)
    program=$(realpath "${PROA_BIN:?the program under test}")
    ln -s "$program" "$bin/etcd"
    ln -s "$program" "$bin/etcdctl"
    ;;
3.*)
    folder=$(buildroot/peers.sh | awk -v want="$whose" '$1 == want { print $2 }')
    [ -n "$folder" ] || fail "no etcd $whose: give proa, 3.4 or 3.5"
    ln -s "$folder/usr/bin/etcd" "$folder/usr/bin/etcdctl" "$bin/"
    ;;
*) fail "unknown store $whose: give proa, 3.4 or 3.5" ;;
esac
need python3 python3-venv
need npm npm
need node nodejs
need protoc 'protobuf-compiler, and libprotobuf-dev'

declare -A running
for client in "${clients[@]}"; do
    [[ " ${all[*]} " == *" $client "* ]] || fail "unknown client $client: ${all[*]}"
    PATH=$bin:$PATH ETCD_ENABLE_V2=true timeout "$limit_s" "$here/run.sh" --one "$client" "$whose" >"$bin/$client.log" 2>&1 &
    running[$client]=$!
done
failed=()
for client in "${clients[@]}"; do
    if wait "${running[$client]}"; then
        echo "== $client with $whose"
        grep -E '^(test result:.*|[0-9]+ (passed|failed).*|ℹ (tests|pass|fail|skipped) .*)$' "$bin/$client.log" || true
    else
        failed+=("$client")
        echo "== $client with $whose FAILED"
        tail -n 60 "$bin/$client.log"
    fi
done
[ ${#failed[@]} -eq 0 ] || fail "with $whose failed: ${failed[*]}"
