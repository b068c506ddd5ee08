"""The process that measures on a device: ``python -m googlenet_edge.engines.remote_worker REQUEST OUT``.

It is started over there by `engines/remote_agent.py`, takes a `Request` from a file, tells its progress in lines of
JSON on stdout, and writes a `Measurement`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.bench import bench
from googlenet_edge.engines.bundle import read_bundle, read_manifest
from googlenet_edge.engines.clocks import held
from googlenet_edge.engines.devices import device_to_measure, profile_of
from googlenet_edge.engines.jetson import ROOT
from googlenet_edge.engines.measurement import Measurement
from googlenet_edge.engines.registry import backend_for, engine_here, open_bundle
from googlenet_edge.engines.remote_agent import TOLD
from googlenet_edge.engines.rounds import BenchPlan
from googlenet_edge.engines.sustained import SustainedPlan
from googlenet_edge.errors import ConfigError, EdgeError, EngineError, OutputError
from googlenet_edge.files import from_json, read_file, write_json
from googlenet_edge.processor import usable_cores
from googlenet_edge.target import Device, EngineName

_MAX_REQUEST_BYTES = 1 << 20
_BETWEEN_REPORTS_S = 0.2

Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """What to measure on another machine.

    ``streams`` is one for each of its cores where it is not given, ``power_mode`` the one it has. The rest is as in
    `BenchPlan`.
    """

    device: Device
    engine: EngineName | None
    threads: int
    streams: int | None
    rounds: int | None
    sustained: SustainedPlan | None = None
    power_mode: str | None = None
    lock_clocks: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """``bundles`` and ``image`` are paths where the worker runs, ``names`` what the measurement calls the bundles."""

    bundles: tuple[str, ...]
    names: tuple[str, ...]
    image: str
    plan: RemotePlan


def run(
    request: Request, *, say: Say, so_far: Callable[[Measurement], None] | None = None, root: Path = ROOT
) -> Measurement:
    """Builds what has to be built on the device, and measures. ``root`` is where this machine describes itself.

    Args:
        so_far: as for `bench`.

    Raises:
        EngineError: this machine is another device, or cannot do what is asked.
        EdgeError: as `bench` does.
    """
    wish = request.plan
    device_to_measure(wish.device, root=root)
    paths = [Path(bundle) for bundle in request.bundles]
    for path in paths:
        manifest = read_manifest(path)
        backend_for(manifest.device, wish.engine)
        if not wish.engine and engine_here(manifest) is EngineName.SIMULATED:
            raise EngineError(
                f"{path} needs TensorRT's Python package and pycuda there; install both in an environment, and name"
                " that one's interpreter with --python"
            )
    image = Path(request.image).read_bytes()
    with held(root, wish.power_mode, fixed=wish.lock_clocks) as left:
        build_plans(paths, engine=wish.engine, say=say)
        plan = BenchPlan(
            threads=wish.threads,
            streams=wish.streams or usable_cores(),
            rounds=wish.rounds,
            sustained=wish.sustained,
        )
        say("step", message="measuring")
        measurement = bench(
            paths,
            names=request.names,
            plan=plan,
            image=image,
            engine=wish.engine,
            progress=_reporting(say),
            so_far=so_far,
            root=root,
        )
    return replace(measurement, warnings=(*measurement.warnings, *left))


def build_plans(paths: Sequence[Path], *, engine: EngineName | None, say: Say) -> None:
    """Opens bundles for GPUs once, which compiles for this very GPU what is not compiled yet, before anything is timed.

    Plans are kept where runtimes keep such things, so that they are there when the bundle is opened again.
    """
    bundles = [read_bundle(path) for path in paths]
    compiled = [bundle for bundle in bundles if profile_of(bundle.manifest.device).has_tensorrt]
    for number, bundle in enumerate(compiled, 1):
        say("step", message=f"building plan {number} of {len(compiled)}")
        open_bundle(bundle, engine=engine).close()


def main() -> int:
    """The process."""
    say = _speaker()
    data = read_file(Path(sys.argv[1]), limit=_MAX_REQUEST_BYTES, error=ConfigError)
    request, out = from_json(data, Request, where="the request", error=ConfigError), Path(sys.argv[2])

    def keep(measurement: Measurement) -> None:
        with suppress(OutputError):  # said at the end, where it is still so
            write_json(out, measurement)
            say("so_far")

    try:
        write_json(out, run(request, say=say, so_far=keep))
    except EdgeError as problem:
        say("failed", message=in_their_words(str(problem), request))
        return TOLD
    except KeyboardInterrupt:
        return 1
    return 0


def in_their_words(message: str, request: Request) -> str:
    """A message about bundles as the other side knows them."""
    for place, name in zip(request.bundles, request.names, strict=True):
        message = message.replace(place, name)
    return message


def _speaker() -> Say:
    """Writes events where stdout was, and sends to stderr what libraries print."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(event: str, **facts: Any) -> None:
        channel.write(json.dumps({"event": event, **facts}).encode() + b"\n")

    return say


def _reporting(say: Say) -> Progress:
    """At most five times a second, and of the end."""
    last = -_BETWEEN_REPORTS_S

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _BETWEEN_REPORTS_S or done == total:
            last = now
            say("progress", done=done, total=total)

    return report


if __name__ == "__main__":
    sys.exit(main())
