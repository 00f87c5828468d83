# One machine: DIR PROA FLAGS. A systemd that manages units as the user's, and
# fleetd beside it, started again when it ends. All of it ends with this process.
dir=$1
proa=$2
flags=$3
for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    if [ -e "$root/cgroup.procs" ]; then
        group=$root/proa-test-$$
        mkdir -p "$group" && echo $$ >"$group/cgroup.procs"
    fi
done
exec unshare --mount --pid --fork --kill-child=KILL --cgroup --mount-proc sh -c '
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/system /run/user/0
    export XDG_RUNTIME_DIR=/run/user/0
    systemd=/lib/systemd/systemd
    $systemd --user --log-target=console </dev/null >"$1/systemd.log" 2>&1 &
    while true; do
        "$2" fleetd $3 </dev/null &
        fleetd=$!
        # Signals come through a file: outside of here the process has another number.
        while kill -0 $fleetd 2>/dev/null; do
            if [ -e "$1/signal" ]; then
                kill "$(cat "$1/signal")" $fleetd
                wait $fleetd
                rm "$1/signal"
            fi
            sleep 0.1
        done
    done
' inner "$dir" "$proa" "$flags"
