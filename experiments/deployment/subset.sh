#!/bin/sh
# A folder with the training images of CIFAR-10 and the first 200 test images of each class, as links:
#   sh experiments/deployment/subset.sh CIFAR10 cifar10-2000
set -e
from=$(realpath "$1")
mkdir -p "$2"
ln -sfn "$from/train" "$2/train"
for class in "$from"/val/*/; do
    mkdir -p "$2/val/$(basename "$class")"
    ls "$class" | head -200 | while read -r file; do ln -sf "$class$file" "$2/val/$(basename "$class")/$file"; done
done
