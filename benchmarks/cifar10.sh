#!/usr/bin/env bash
# The whole flow on CIFAR-10 at 64×64: train, build, eval, bench, predict. An interrupted training goes on.
#
# Usage: benchmarks/cifar10.sh DATA [RUN]     DATA: folder with train/CLASS/* and val/CLASS/*
#                                             RUN: where the results go, default runs/cifar10
set -euo pipefail

usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
case "${1:-}" in -h | --help) usage; exit ;; "") usage >&2; exit 2 ;; esac

data=$1
run=${2:-runs/cifar10}
images=("$data"/val/*/*)

set -x
[ -e "$run/checkpoint.safetensors" ] ||
  gnet-edge train --data "$data" --out "$run" --size 64 --resize 68 --min-area 0.5 --epochs 21 \
    --plain-epochs 2 --batch-size 512 --learning-rate 0.4
gnet-edge build "$run/checkpoint.safetensors" --precision fp32
gnet-edge build "$run/checkpoint.safetensors" --precision int8
gnet-edge eval "$run/fp32-cpu" "$run/int8-cpu"
gnet-edge bench "$run/fp32-cpu" "$run/int8-cpu"
gnet-edge predict "${images[@]:0:3}" --bundle "$run/int8-cpu"
