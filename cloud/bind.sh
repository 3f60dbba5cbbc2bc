#!/bin/bash
# Gives each rank its own GPU, and the cores and network card near it: mpirun ... cloud/bind.sh atelier train ...
# Sets CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS from the rank's place on its host; leaves what is set already.
rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${PMIX_LOCAL_RANK:-${SLURM_LOCALID:-0}}}
size=${OMPI_COMM_WORLD_LOCAL_SIZE:-${SLURM_NTASKS_PER_NODE:-1}}
cores=$(nproc)
: "${OMP_NUM_THREADS:=$((cores / size > 0 ? cores / size : 1))}"
export OMP_NUM_THREADS
if [ -z "${CUDA_VISIBLE_DEVICES:-}" ] && command -v nvidia-smi >/dev/null; then
    n=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
    [ "$n" -gt "$rank" ] && export CUDA_VISIBLE_DEVICES=$rank # ranks beyond the GPUs are refused by the program
fi
if command -v numactl >/dev/null && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    bus=$(nvidia-smi -i "$CUDA_VISIBLE_DEVICES" --query-gpu=pci.bus_id --format=csv,noheader 2>/dev/null | tr 'A-F' 'a-f' | sed 's/^0000//')
    node=$(cat "/sys/bus/pci/devices/$bus/numa_node" 2>/dev/null || echo -1)
    [ "$node" -ge 0 ] && exec numactl --cpunodebind="$node" --preferred="$node" "$@"
fi
exec "$@"
