#!/bin/bash
# Prints an Open MPI hostfile, one slot per GPU (or per SLOTS), for hosts that can be reached.
#     cloud/hostfile.sh node1 node2 ... > hosts          also host[01-16], and "-" for a list on stdin (gcloud, aws ... | hostfile.sh -)
# SLOTS=n: ranks on a host; without it the GPUs of each host, or 1. RSH: how to run a command there (ssh). A host that does not answer
# is left out with a warning; with STRICT=1 it is an error.
set -u
RSH=${RSH:-ssh -o BatchMode=yes -o ConnectTimeout=10}
expand() { # node[01-04]
    if [[ $1 =~ ^(.*)\[([0-9]+)-([0-9]+)\](.*)$ ]]; then
        local i w=${#BASH_REMATCH[2]}
        for i in $(seq "$((10#${BASH_REMATCH[2]}))" "$((10#${BASH_REMATCH[3]}))"); do
            printf '%s%0*d%s\n' "${BASH_REMATCH[1]}" "$w" "$i" "${BASH_REMATCH[4]}"
        done
    else
        echo "$1"
    fi
}
[ $# -gt 0 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
hosts=()
for h in "$@"; do
    if [ "$h" = - ]; then mapfile -t -O ${#hosts[@]} hosts < <(grep -v '^ *\(#\|$\)' | awk '{print $1}'); else
        mapfile -t -O ${#hosts[@]} hosts < <(expand "$h"); fi
done
bad=0
for h in "${hosts[@]}"; do
    if ! n=$($RSH "$h" 'nvidia-smi -L 2>/dev/null | grep -c "^GPU " || true' </dev/null 2>/dev/null); then
        echo "hostfile: $h does not answer" >&2
        bad=1
        continue
    fi
    n=${SLOTS:-$n}
    [ "${n:-0}" -gt 0 ] || n=1
    echo "$h slots=$n"
done
[ $bad = 0 ] || [ "${STRICT:-0}" = 0 ]
