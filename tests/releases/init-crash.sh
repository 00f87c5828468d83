#!/usr/bin/env bash
# A release whose binary ends at once: without process 1 the kernel panics.
set -euo pipefail
echo 'int main(void) { return 7; }' | gcc -x c -Os -s -static -o "$1/usr/bin/proa" -
