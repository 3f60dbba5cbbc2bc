#!/usr/bin/env bash
# cloud/hostfile.sh and cloud/bind.sh where machines have GPUs: an nvidia-smi that lists four, in the place of ssh a shell.
. tests/train/lib.sh
mkdir "$TMP/bin"
cat >"$TMP/bin/nvidia-smi" <<E
#!/bin/sh
[ "\$1" = -L ] && for i in 0 1 2 3; do echo "GPU \$i: NVIDIA H100 (UUID: GPU-\$i)"; done
E
printf '#!/bin/sh\n[ "$1" != n03 ] && exec sh -c "$2"\n' >"$TMP/rsh"
chmod +x "$TMP/bin/nvidia-smi" "$TMP/rsh"
export PATH=$TMP/bin:$PATH RSH=$TMP/rsh
check "hostfile: a slot for each GPU" diff <(printf 'n%02d slots=4\n' 1 2 4) <(cloud/hostfile.sh 'n[01-04]' 2>"$TMP/err")
check "hostfile: who does not answer" grep -q "n03 does not answer" "$TMP/err"
check "hostfile: STRICT" test "$(STRICT=1 cloud/hostfile.sh n03 2>/dev/null; echo $?)" = 1
unset CUDA_VISIBLE_DEVICES OMP_NUM_THREADS
# rank SIZE RANK [VARIABLE=VALUE...]: the GPU and threads of a rank on its host
rank() { env OMPI_COMM_WORLD_LOCAL_SIZE="$1" OMPI_COMM_WORLD_LOCAL_RANK="$2" "${@:3}" cloud/bind.sh sh -c 'echo "${CUDA_VISIBLE_DEVICES:-none} $OMP_NUM_THREADS"'; }
cores=$(nproc)
share=$((cores / 4 > 0 ? cores / 4 : 1))
for i in 0 3; do check "bind: GPU and cores of rank $i of 4" test "$(rank 4 $i)" = "$i $share"; done
check "bind: a rank beyond the GPUs gets none" test "$(rank 5 4)" = "none $((cores / 5 > 0 ? cores / 5 : 1))"
check "bind: what is set stays" test "$(rank 4 1 CUDA_VISIBLE_DEVICES=7 OMP_NUM_THREADS=3)" = "7 3"
check "bind: a lone rank has all cores" test "$(rank 1 0)" = "0 $cores"
finish
