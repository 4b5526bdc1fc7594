#!/usr/bin/env bash
# The study on one GPU, in the time there is: the rows of most value first, all images in GPU memory.
#
#   experiments/cifar10_resnet56/gpu.sh IMAGES WEIGHTS [MINUTES [SETTING...]]
#
# IMAGES: a folder with train/<class>/ and val/<class>/. WEIGHTS: the baseline, a ResNet-56 with zero-padded shortcuts that
# was trained with data.mean and data.std of conf/data/cifar10.yaml (other values: as SETTINGS).
# MINUTES: when to stop, 10 by default. The same command again goes on where the time ran out: finished rows are read from
# their records, an interrupted one continues from its newest epoch. SETTINGS: of prunelab, for every row.
#
# Variables: JOBS = rows at a time on the card (1; experiments/benchmarks/gpu.py --parts together measures which number
# trains the most images per second), ROWS = only these, with commas between, OUTPUTS = folder of the runs (outputs),
# NAME = of the images in records and tables, SEEDS (0). The README estimates 8 minutes or less for a row on an H100.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 's/^# \{0,1\}//; 2,14p' "$0" >&2; exit 2; }
images=$1 weights=$2 minutes=${3:-10}
shift $(($# < 3 ? $# : 3))
outputs=${OUTPUTS:-outputs}
end=$(($(date +%s) + minutes * 60))

# chosen ROWS: those of them that the variable ROWS names; all without it.
chosen() {
  local row found=
  for row in ${1//,/ }; do
    [[ -n ${ROWS:-} && ,$ROWS, != *,$row,* ]] || found=$found,$row
  done
  echo "${found#,}"
}

# sweep ROWS [SETTING...]: these rows, until the time is over. A row that fails does not keep the others from running.
failed=0
sweep() {
  local rows left=$((end - $(date +%s))) status=0
  rows=$(chosen "$1")
  shift
  [ -n "$rows" ] && [ "$left" -gt 0 ] || return 0
  timeout --signal=INT --kill-after=60 "$left" prunelab -m experiment=cifar10_resnet56 \
    "experiment/cifar10_resnet56=$rows" "seed=${SEEDS:-0}" study=cifar10_resnet56_gpu "outputs=$outputs" \
    data=image_folder "data.root=$images" "data.name='${NAME:-CIFAR-10 (JPEG copy)}'" \
    "data.mean=[0.4914,0.4822,0.4465]" "data.std=[0.2470,0.2435,0.2616]" \
    "data.cache=$outputs/cifar10.images" baseline=file "baseline.path=$weights" "~baseline.training" \
    trainer=gpu trainer.compile=reduce-overhead \
    hydra/launcher=local "hydra.launcher.jobs=${JOBS:-1}" "$@" || status=$?
  [ "$status" -eq 0 ] || [ "$(date +%s)" -ge "$end" ] || failed=1
}

# The recipes as published: 40, 70 and 100 epochs of recovery.
sweep l1_28,channel_pruning_50,l1_10,l1_37,apoz_37,bn_gamma_53,l1_53,apoz_46 "$@"
# Methods that learn for 160 or 200 epochs: a quarter of these.
sweep fpgm_53,sfp_53,vcnn_20,fpgm_41 +learning_epochs=50 "$@"
# LFPC hooks into the network, which is not compiled then, and runs it twice in each step.
sweep lfpc_53 +learning_epochs=15 "$@"
# HRank: one epoch after each of its 30 parts, where its authors have 30; too short to compile each of the 30 networks.
sweep hrank_50,hrank_74 recipe.round_training.epochs=1 'recipe.round_training.milestones=[0.33,0.67]' \
  recipe.training.epochs=1 'recipe.training.milestones=[0.33,0.67]' "$@" trainer.compile=false
exit "$failed"
