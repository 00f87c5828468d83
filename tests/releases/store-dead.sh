#!/usr/bin/env bash
# A release whose store never comes up: it is told to keep its data where it can't.
set -euo pipefail
unit=$1/usr/lib/systemd/system/etcd.service.d
mkdir -p "$unit"
printf '[Service]\nEnvironment=ETCD_DATA_DIR=/proc/etcd\n' >"$unit/broken.conf"
