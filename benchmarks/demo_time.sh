#!/usr/bin/env bash
# The time that `make demo` takes on a fresh clone when the packages have been downloaded before.
#
# Usage: benchmarks/demo_time.sh [REPOSITORY]     default: the repository that this script is in; commits count, edits
#                                                 that are not committed do not
set -euo pipefail

usage() { sed -n '2,5s/^# \{0,1\}//p' "$0"; }
case "${1:-}" in -h | --help) usage; exit ;; esac

repository=$(cd "${1:-$(dirname "$0")/..}" && pwd)
most_s=360
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "filling pip's cache: an installation that is thrown away"
git clone --quiet "$repository" "$folder/first"
make -C "$folder/first" .venv/.build-installed > "$folder/install.log" 2>&1 || { cat "$folder/install.log"; exit 1; }
rm -rf "$folder/first"

echo "$(date -u +%Y-%m-%dT%H:%MZ), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg), commit $(git -C "$repository" rev-parse --short HEAD)"
git clone --quiet "$repository" "$folder/clone"
SECONDS=0
make -C "$folder/clone" demo
seconds=$SECONDS

echo
if [ "$seconds" -le "$most_s" ]; then reached=yes; else reached=no; fi
echo '| what | measured | asked | reached |'
echo '| --- | --- | --- | --- |'
echo "| make demo on a fresh clone | $((seconds / 60)) min $((seconds % 60)) s | ≤ $((most_s / 60)) min | $reached |"
