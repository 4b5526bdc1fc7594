#!/usr/bin/env bash
# The study on one GPU, in the time there is: the rows of most value first, several at a time, all images in GPU memory.
#
#   experiments/cifar10_resnet56/gpu.sh IMAGES WEIGHTS [MINUTES]
#
# IMAGES: a folder with train/<class>/ and val/<class>/. WEIGHTS: the baseline, a ResNet-56 with zero-padded shortcuts.
# MINUTES: when to stop, 10 by default. The same command again goes on where the time ran out: finished rows are read from
# their records, an interrupted one continues from its newest epoch.
#
# Variables: JOBS = rows at a time (4), OUTPUTS = folder of the runs (outputs), NAME = of the images in records and tables,
# SEEDS (0). Further arguments of prunelab follow MINUTES, such as trainer.compile=reduce-overhead.
set -euo pipefail
images=$1 weights=$2 minutes=${3:-10}
shift $(($# < 3 ? $# : 3))
outputs=${OUTPUTS:-outputs}
end=$(($(date +%s) + ${minutes%.*} * 60))

# sweep ROWS [SETTINGS...]: these rows, until the time is over.
sweep() {
  local rows=$1 left=$((end - $(date +%s))) status=0
  shift
  [ "$left" -gt 0 ] || return 0
  timeout --signal=INT --kill-after=60 "$left" prunelab -m experiment=cifar10_resnet56 \
    "experiment/cifar10_resnet56=$rows" "seed=${SEEDS:-0}" study=cifar10_resnet56_gpu "outputs=$outputs" \
    data=image_folder "data.root=$images" "data.name='${NAME:-CIFAR-10 (JPEG copy)}'" \
    "data.cache=$outputs/cifar10.images" baseline=file "baseline.path=$weights" trainer=gpu \
    hydra/launcher=local "hydra.launcher.jobs=${JOBS:-4}" "$@" || status=$?
  [ "$status" -eq 0 ] || [ "$(date +%s)" -ge "$end" ] || exit "$status"
}

# The recipes as published: 40, 70 and 100 epochs of recovery.
sweep l1_28,channel_pruning_50,l1_10,l1_37,apoz_37,bn_gamma_53,l1_53,apoz_46 "$@"
# Methods that learn for 160 or 200 epochs: a quarter of these, so that a row stays under 8 minutes.
sweep fpgm_53,sfp_53,vcnn_20,fpgm_41,lfpc_53 +learning_epochs=50 "$@"
# HRank: 3 epochs after each of its 30 parts, where its authors have 30.
sweep hrank_50,hrank_74 recipe.round_training.epochs=3 'recipe.round_training.milestones=[1,2]' \
  recipe.training.epochs=3 'recipe.training.milestones=[1,2]' "$@"
