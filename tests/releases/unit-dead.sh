#!/usr/bin/env bash
# A release that boots and has its store, but whose fleetd never comes up.
set -euo pipefail
unit=$1/usr/lib/systemd/system/fleetd.service.d
mkdir -p "$unit"
printf '[Service]\nExecStart=\nExecStart=/usr/bin/false\n' >"$unit/broken.conf"
