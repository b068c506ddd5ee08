#!/usr/bin/env bash
# The whole flow on flower photos of many sizes, at 224×224: train, build, eval, bench, predict. An interrupted
# training goes on.
#
# Usage: benchmarks/flowers.sh DATA [RUN [START]]     DATA: folder with train/CLASS/* and val/CLASS/*
#                                                     RUN: where the results go, default runs/flowers
#                                                     START: weights to begin with, default 'imagenet'
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }
case "${1:-}" in -h | --help) usage; exit ;; "") usage >&2; exit 2 ;; esac

data=$1
run=${2:-runs/flowers}
start=${3:-imagenet}
images=("$data"/val/*/*)

set -x
[ -e "$run/checkpoint.safetensors" ] ||
  gnet-edge train --data "$data" --out "$run" --weights "$start" --batch-size 64 --epochs 12
gnet-edge build "$run/checkpoint.safetensors" --precision fp32
gnet-edge build "$run/checkpoint.safetensors" --precision int8
gnet-edge eval "$run/fp32-cpu" "$run/int8-cpu"
gnet-edge bench "$run/fp32-cpu" "$run/int8-cpu" --threads 1
gnet-edge bench "$run/fp32-cpu" "$run/int8-cpu" --threads 2
gnet-edge predict "${images[@]:0:3}" --bundle "$run/int8-cpu"
