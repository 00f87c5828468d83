# Names, not logic: what a word means is in buildroot/, qemu/ and tests/.
#
#   make run               boot a cluster of three machines and run a unit on it
#   make run UNIT=my.service    the same with your own unit
#   make test              everything that CI runs
#   make prove             the long proofs: hundreds of kills, a million compared answers
#   make bench             speed beside Debian's etcd, on an idle machine
#   make image             build/proa.img and what boots it
#   make updates           good and bad updates of one machine and of three, power cuts
#   make release           payloads of that image, signed; published when OMAHA_SERVER is set
#   make delta OLD=binary  how much machines download for another binary
#   make check             formatting, lints, documentation, unit tests

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

release := target/x86_64-unknown-linux-gnu/release
# RocksDB is compiled once and found by every profile.
cargo = ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$$(buildroot/rocksdb.sh)" cargo

# Each source has a seed of its own: a run says of it what the one before said,
# and every change is tried with others. `make prove` takes fresh ones.
seed = $$((16\#$$( (git rev-parse 'HEAD^{tree}' 2>/dev/null || date +%s | sha256sum) | head -c 12)))

.PHONY: help setup slow build image release delta run check unit differential clients simulation cluster updates test prove bench clean

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@buildroot/setup.sh

# What takes long and is kept in a cache outside the clone.
slow: setup
	@buildroot/rocksdb.sh >/dev/null
	@buildroot/kernel.sh >/dev/null

build: slow
	@echo "== building the binary"
	$(cargo) build --release --locked -p proa -p proa-qemu -p proa-release

image: build
	@echo "== making the image"
	buildroot/image.sh $(release)/proa

release: image
	buildroot/release.sh

delta: image
	@buildroot/payload-sizes.sh $(release)/proa $(OLD)

run: image
	@echo "== booting the cluster"
	@exec $(release)/proa-qemu cluster --machines 3 $(if $(UNIT),--unit "$(UNIT)")

check: slow
	cargo fmt --all --check
	$(cargo) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(cargo) doc --workspace --no-deps --locked

# Everything but the virtual machines. Tests always name the whole workspace: a
# part of it has other features of its dependencies, which are then built again.
unit: slow
	$(cargo) test --workspace --locked --exclude proa
	$(cargo) test --workspace --locked $(foreach t,$(filter-out cluster update_machines update_cluster update_power,$(basename $(notdir $(wildcard tests/*.rs)))),--test $(t))

# The same random stream for Debian's etcd and for ours.
differential: build
	PROA_FUZZ_SEED=$(seed) PROA_FUZZ_SECONDS=120 PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test differential -- --nocapture

# Clients of etcd as their users get them.
clients: build
	@echo "== running clients of etcd"
	PROA_BIN=$(abspath $(release)/proa) tests/clients/run.sh proa

# A cluster on one thread, in virtual time: one seed after another for three minutes.
simulation: slow
	$(if $(SIMULATION_S),,PROA_SEED=$(seed)) PROA_SIMULATION_S=$(or $(SIMULATION_S),180) $(cargo) test --workspace --locked --lib simulation::runs -- --nocapture

# Three machines on the image that users get.
cluster: image
	PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test cluster -- --nocapture

# Updates of one machine and of three, good and bad ones, and with power cuts.
updates: image
	PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test update_machines -- --nocapture
	PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test update_cluster -- --nocapture
	PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test update_power -- --nocapture

# Two at a time: linking, elections and clients leave a core idle. The virtual
# machines have both cores for themselves, for they are held to a time.
test: slow
	@$(MAKE) -j2 -Oline image check unit differential simulation clients
	@$(MAKE) cluster
	@buildroot/budget.sh $(release)/proa
	@buildroot/payload-sizes.sh $(release)/proa
	@echo "== all tests passed"

prove: build
	PROA_FUZZ_OPS=1000000 PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test differential -- --nocapture
	$(MAKE) simulation SIMULATION_S=3600
	PROA_KILLS=200 PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test etcd_kill -- --nocapture
	PROA_WATCH_WRITES=1000000 PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test etcd_watchers -- --nocapture
	PROA_UPDATE_KILLS=200 PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test update_kill -- --nocapture
	PROA_QUOTA_MIB=512 PROA_BIN=$(abspath $(release)/proa) $(cargo) test --workspace --locked --test etcd_space -- --nocapture
	PROA_BAD_RELEASES=all PROA_POWER_CUTS=30 $(MAKE) updates

# On a machine that does nothing else, in alternating rounds with the real etcd.
bench: build
	peers=$$(buildroot/peers.sh | sed 's,\(.*\) \(.*\),etcd-\1=\2/usr/bin/etcd,'); export PROA_BIN=$(abspath $(release)/proa); \
	for bench in store pauses; do $(cargo) bench --locked -p proa --bench $$bench -- $$peers; done
	PROA_BIN=$(abspath $(release)/proa) $(cargo) bench --locked -p proa --bench update

# Not the keys, without which no machine would take another release, and not the
# releases, which the next ones are differences to.
clean:
	rm -rf target
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name keys ! -name releases -exec rm -rf {} +
