#!/usr/bin/env bash
# Builds the art set and trains the base model into models/base: `make base`. Each part continues where it was interrupted.
#   RANKS=4 configs/base/train.sh      more ranks: the same result, sooner
set -euo pipefail
cd "$(dirname "$0")/../.."
ranks=${RANKS:-$(nproc --all)}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=build/base model=build/base/model
run() { mpirun -np "$ranks" --oversubscribe --bind-to none ./atelier train "$@"; }

[ -f $work/art.h5 ] || python3 datasets/build_base.py --out $work
[ -d $model ] || { mkdir -p $work && cp -r configs/base/model $model; }

[ -f $work/clip/clip/model.safetensors ] || ./atelier train configs/base/clip.yaml # compares a whole batch: one rank
cp $work/clip/clip/* $model/clip/
cp $work/clip/text_encoder/model.safetensors $model/text_encoder/

[ -f $work/vae/vae/diffusion_pytorch_model.safetensors ] || run configs/base/vae.yaml
[ -f $work/vae-2/vae/diffusion_pytorch_model.safetensors ] || { cp $work/vae/vae/* $model/vae/; run configs/base/vae-2.yaml; }
cp $work/vae-2/vae/* $model/vae/

[ -f $work/common.h5 ] || python3 datasets/common_set.py $work
[ -f $work/unet/unet/diffusion_pytorch_model.safetensors ] || run configs/base/unet.yaml
[ -f $work/unet-2/unet/diffusion_pytorch_model.safetensors ] || { cp $work/unet/unet/* $model/unet/; run configs/base/unet-2.yaml; }
cp $work/unet-2/unet/* $model/unet/

mkdir -p models/base
cp -r $model/. models/base/
echo "held-out pictures and captions:"
./atelier score --model models/base $work/heldout.h5
echo "models/base is ready: $(du -sh models/base | cut -f1)"
