#!/usr/bin/env bash
# A release whose binary does nothing for ever: no console, no systemd, no panic.
set -euo pipefail
printf '%s\n' '#include <unistd.h>' 'int main(void) { for (;;) pause(); }' |
    gcc -x c -Os -s -static -o "$1/usr/bin/proa" -
