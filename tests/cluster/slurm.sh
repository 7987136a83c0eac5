#!/usr/bin/env bash
# A whole Slurm cluster on loopback, of Debian's packages, as plain processes of this machine. Run as root.
#
#   tests/cluster/slurm.sh install        packages, without starting their services
#   tests/cluster/slurm.sh up DIR         munged, slurmctld, one slurmd per node; all state below DIR. Status 3: not on this machine
#   tests/cluster/slurm.sh down DIR       stop them, and remove DIR
#   tests/cluster/slurm.sh restart-controller DIR
#   tests/cluster/slurm.sh kill-node DIR NODE, start-node DIR NODE
#
# The nodes and partitions are those of profiles/slurm/partitions.yaml, with pretended GPUs. Outside of DIR only /etc/slurm is
# written to: three links. A Snakemake that starts while they are there and the controller is not waits ten seconds.
set -euo pipefail

#      name    port  CPUs memory/MB gres
nodes=("cpu01   17001 64   256000    -"
       "rtx01   17011 32   128000    gpu:rtx_4090:4"
       "rtx02   17012 32   128000    gpu:rtx_4090:4"
       "pro01   17021 64   512000    gpu:rtx_pro_6000:4"
       "a8001   17031 128  1000000   gpu:a800:8"
       "a8002   17032 128  1000000   gpu:a800:8")
host=$(hostname -s)

install() {
    local missing=""
    for package in slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=" $package"
    done
    [ -n "$missing" ] || return 0
    # While this policy is in place, no package starts a service of its own.
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes; fi
    export DEBIAN_FRONTEND=noninteractive
    local status=0
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >&2 || status=$?
    [ -z "$made" ] || rm -f $policy
    return $status
}

wait_for() { # what, command...
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "$what: not within 30 s" >&2
            tail -n 20 "$dir"/log/* >&2
            return 1
        fi
        sleep 0.1
    done
}

configure() {
    cat <<CONF
ClusterName=moult
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
# Without systemd and cgroups: processes are followed by their parents, memory by looking.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# The nodes claim more than this machine has.
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
# Sites requeue by default; that jobs here are not is the profile's doing.
JobRequeue=1
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=3
# A time limit of a minute is the least there is; it is enforced to the second.
OverTimeLimit=0
DefMemPerCPU=1000
PropagateResourceLimits=NONE
AccountingStorageType=accounting_storage/none
CONF
    local node
    for node in "${nodes[@]}"; do
        set -- $node
        echo "NodeName=$1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$2 CPUs=$3 RealMemory=$4 $([ "$5" = - ] || echo "Gres=$5")"
    done
    cat <<CONF
PartitionName=cpu Nodes=cpu01 Default=YES MaxTime=2-00:00:00 DefaultTime=01:00:00
PartitionName=gpu-24gb Nodes=rtx[01-02] MaxTime=1-00:00:00 DefaultTime=01:00:00
PartitionName=gpu-96gb Nodes=pro01 MaxTime=3-00:00:00 DefaultTime=01:00:00
PartitionName=gpu-80gb Nodes=a800[1-2] MaxTime=3-00:00:00 DefaultTime=01:00:00
CONF
}

configure_gpus() {
    echo AutoDetect=off
    local node type count
    for node in "${nodes[@]}"; do
        set -- $node
        [ "$5" != - ] || continue
        IFS=: read -r _ type count <<<"$5"
        echo "NodeName=$1 Name=gpu Type=$type File=$dir/dev/nvidia[0-$((count - 1))]"
    done
}

all_idle() { [ "$(sinfo -h -N -o '%N %t' | grep -Ec ' idle$')" -ge ${#nodes[@]} ]; }

start_node() { slurmd -N "$1" -f "$dir/etc/slurm.conf"; }

# Remove the links of a cluster of ours that was not taken down: their target is gone, or its controller is.
remove_stale_links() {
    local target owner
    target=$(readlink /etc/slurm/slurm.conf) || return 0
    owner=$(dirname "$(dirname "$target")")
    if [ -e "$target" ] && [ -s "$owner/run/slurmctld.pid" ] && [ -e "/proc/$(cat "$owner/run/slurmctld.pid")" ]; then return 0; fi
    unlink_from "$owner"
}

unlink_from() {
    local name
    for name in slurm gres cgroup; do
        if [ "$(readlink /etc/slurm/$name.conf 2>/dev/null)" = "$1/etc/$name.conf" ]; then rm -f /etc/slurm/$name.conf; fi
    done
}

up() {
    remove_stale_links
    if [ -e /etc/slurm/slurm.conf ]; then
        echo "this machine has a Slurm already: /etc/slurm/slurm.conf" >&2
        return 3
    fi
    mkdir -p "$dir"/{etc,run,log,state,spool,dev} /etc/slurm
    chmod 755 "$dir" "$dir"/run
    # GPUs must be character devices, or CUDA_VISIBLE_DEVICES stays empty: these are /dev/null by other names.
    local number
    for number in 0 1 2 3 4 5 6 7; do
        if ! mknod -m 666 "$dir/dev/nvidia$number" c 1 3; then
            echo "pretended GPUs cannot be made here: mknod is not permitted" >&2
            return 3
        fi
    done
    dd if=/dev/urandom of="$dir/etc/munge.key" bs=1024 count=1 status=none
    chmod 600 "$dir/etc/munge.key"
    munged --force --key-file="$dir/etc/munge.key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/run/munged.seed" --num-threads=2
    configure >"$dir/etc/slurm.conf"
    configure_gpus >"$dir/etc/gres.conf"
    echo "CgroupPlugin=cgroup/v1" >"$dir/etc/cgroup.conf"
    # SLURM_CONF is not enough: the executor's job step takes SLURM_* out of the environment of its own srun.
    local name
    for name in slurm gres cgroup; do ln -sfn "$dir/etc/$name.conf" "/etc/slurm/$name.conf"; done
    slurmctld -f "$dir/etc/slurm.conf"
    wait_for slurmctld timeout 5 scontrol ping
    local node
    for node in "${nodes[@]}"; do
        set -- $node
        mkdir -p "$dir/spool/$1"
        start_node "$1"
    done
    wait_for "all nodes idle" all_idle
}

# Stop the process of a pid file, if it is one of ours.
stop() { # signal, pid file
    local process
    [ -s "$2" ] || return 0
    process=$(cat "$2")
    if tr '\0' ' ' 2>/dev/null <"/proc/$process/cmdline" | grep -Eq 'slurmd|slurmctld|munged'; then
        kill "-$1" "$process" 2>/dev/null || true
        # A zombie counts as gone: whoever should reap it may be late.
        until [ ! -e "/proc/$process" ] || grep -q '^State:.Z' "/proc/$process/status" 2>/dev/null; do sleep 0.05; done
    fi
    rm -f "$2"
}

down() {
    local file node
    for node in "${nodes[@]}"; do kill_node "${node%% *}"; done
    for file in "$dir"/run/slurmd-*.pid "$dir"/run/slurmctld.pid "$dir"/run/munged.pid; do stop KILL "$file"; done
    unlink_from "$dir"
    rm -rf "$dir"
}

# A node dies at once, with all that runs on it: slurmd, the steps that it started, and their processes.
kill_node() { # node
    stop KILL "$dir/run/slurmd-$1.pid"
    local environment process
    for environment in $(grep -lz "^SLURMD_NODENAME=$1$" /proc/[0-9]*/environ 2>/dev/null || true); do
        process=${environment#/proc/}
        process=${process%/environ}
        # First what would report the end of its child.
        kill_step "$(awk '/^PPid:/ {print $2}' "/proc/$process/status" 2>/dev/null)"
        kill -KILL "$process" 2>/dev/null || true
    done
}

kill_step() { if grep -q '^slurmstepd' "/proc/$1/comm" 2>/dev/null; then kill -KILL "$1"; fi; }

action=${1:?install, up, down, restart-controller, kill-node or start-node}
dir=${2:-}
[ "$action" = install ] || [ -n "$dir" ] || { echo "$action needs a directory" >&2; exit 2; }
case $action in
install) install ;;
up) up ;;
down) down ;;
restart-controller)
    stop KILL "$dir/run/slurmctld.pid"
    sleep "${3:-3}"
    slurmctld -f "$dir/etc/slurm.conf"
    wait_for slurmctld timeout 5 scontrol ping
    ;;
kill-node) kill_node "$3" ;;
start-node) start_node "$3" ;;
*) echo "unknown: $action" >&2 && exit 2 ;;
esac
