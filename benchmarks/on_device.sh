#!/usr/bin/env bash
# Everything that can be measured of a bundle on the device that holds this copy, in one go; one JSON to send back.
#
# Usage: benchmarks/on_device.sh [--data DATA] [--minutes N] [--out FILE.json] BUNDLE...
#   BUNDLE    folders that gnet-edge build wrote, such as fp16-orin-nano int8-orin-nano
#   --data    folder with train/CLASS/* and val/CLASS/*, for the accuracy on the device; default: not measured
#   --minutes of sustained load, default 10; 0: none
#   --out     default on_device.json
#
# What fails is written down and does not stop the rest. Where trtexec is there, the same graphs are timed by it, too.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
data='' minutes=10 out=on_device.json bundles=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit ;;
    --data) data=${2:?--data needs a folder}; shift 2 ;;
    --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
    --out) out=${2:?--out needs a file}; shift 2 ;;
    -*) usage >&2; exit 2 ;;
    *) bundles+=("$1"); shift ;;
  esac
done
[ ${#bundles[@]} -gt 0 ] || { usage >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { # NAME COMMAND...: its stdout, stderr and exit code
  local name=$1
  shift
  echo "== $name: $*" >&2
  local code=0
  "$@" >"$work/$name.out" 2> >(tee "$work/$name.err" >&2) || code=$?
  echo "$code" >"$work/$name.code"
}

step doctor gnet-edge doctor --json
for i in "${!bundles[@]}"; do
  step "inspect-$i" gnet-edge inspect "${bundles[$i]}" --json
  step "build-$i" gnet-edge build "${bundles[$i]}" --json
done
for _ in {1..36}; do # until the load average of the last minute is no longer that of the builds
  grep -q ^0 "$work"/build-*.code && awk '{ exit $1 < 0.5 }' /proc/loadavg || break
  sleep 5
done
step bench gnet-edge bench "${bundles[@]}" --json
[ "$minutes" = 0 ] || step sustained gnet-edge bench "${bundles[-1]}" --sustained "${minutes}m" --fps 30 --json
[ -z "$data" ] || step eval gnet-edge eval "${bundles[@]}" --data "$data" --json

trtexec=${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}
if [ -x "$trtexec" ]; then
  cat > "$work/flags.py" <<'P'
import json, sys
from pathlib import Path
from googlenet_edge.engines.tensorrt_library import Flavour, load_library
from googlenet_edge.engines.tensorrt_builder import cache_for
from googlenet_edge.engines.tensorrt_runtime import MOST_IMAGES

version = load_library(Flavour.TENSORRT).version
major = version[0]
bundle, cache = map(Path, sys.argv[1:])
manifest = json.loads((bundle / "manifest.json").read_text())
dla, int8 = manifest["unit"] == "dla", manifest["precision"] == "int8"
if dla and version >= (10, 8):
    sys.exit("trtexec: this TensorRT has no DLA")
flags = ["--noTF32"]
if dla or major < 10:
    flags += ["--int8"] if int8 else []
    flags += ["--fp16"] if manifest["precision"] != "fp32" else []
elif major == 10:
    flags += ["--stronglyTyped"]
if dla:
    flags += ["--useDLACore=0", "--allowGPUFallback"]
    if int8:  # TensorRT skips a cache whose header is another version's
        cache.write_bytes(cache_for(version, (bundle / "calibration.cache").read_bytes()))
        flags += [f"--calib={cache}"]
else:  # pieces on a DLA cannot be recorded, and are of one size
    crop, sizes = manifest["preprocess"]["crop"], {"min": 1, "opt": 1, "max": MOST_IMAGES}
    flags += ["--useCudaGraph", *(f"--{end}Shapes=pixels:{n}x{crop}x{crop}x3" for end, n in sizes.items())]
print("\n".join(flags))
P
  for i in "${!bundles[@]}"; do # built as gnet-edge builds it
    step "flags-$i" python3 "$work/flags.py" "${bundles[$i]}" "$work/calibration-$i.cache"
    grep -q ^0 "$work/flags-$i.code" || continue
    mapfile -t flags < "$work/flags-$i.out"
    step "trtexec-$i" "$trtexec" --onnx="${bundles[$i]}/model.onnx" "${flags[@]}"
  done
fi

python3 - "$work" "$out" "${bundles[@]}" <<'P'
import json, sys
from pathlib import Path

work, out, bundles = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

def step(name):
    text = (work / f"{name}.out").read_text(errors="replace")
    try:
        result = json.loads(text)
    except ValueError:
        result = text[-20000:]
    said = (work / f"{name}.err").read_text(errors="replace")[-20000:]
    return {"exit_code": int((work / f"{name}.code").read_text()), "result": result, "said": said}

steps = {path.stem: step(path.stem) for path in sorted(work.glob("*.code"))}
partial = out.with_name(out.name + ".partial")
partial.write_text(json.dumps({"bundles": bundles, "steps": steps}, indent=1) + "\n")
partial.replace(out)
failed = [name for name, found in steps.items() if found["exit_code"]]
print(f"{out}: {len(steps)} steps, failed: {', '.join(failed) or 'none'}", file=sys.stderr)
P
