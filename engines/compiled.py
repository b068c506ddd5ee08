"""A bundle for a GPU, compiled on the device that will run it: once, before anybody waits for an answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.registry import open_bundle
from googlenet_edge.engines.tensorrt_layers import Placement
from googlenet_edge.engines.tensorrt_runtime import TensorRtEngine
from googlenet_edge.errors import EngineError
from googlenet_edge.target import EngineName


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan that gives the bundle's golden logits on the GPU here.

    ``library`` and ``gpu`` made it and alone can run it. ``seconds`` is what its build took, now or, where it is
    ``reused``, before.
    """

    bundle: str
    folder: str
    library: str
    gpu: str
    size: int
    seconds: float
    reused: bool
    placement: Placement


def compile_bundle(path: Path, *, progress: Progress | None = None) -> Compiled:
    """Compiles a bundle where that is not done yet, and computes its golden vectors.

    Raises:
        BundleError: the bundle is damaged, or the plan computes something else.
        EngineError: it is for a processor; TensorRT, pycuda or the GPU is missing; or TensorRT refuses the model.
        OutputError: the plan cannot be kept.
    """
    bundle = read_bundle(path)
    device = bundle.manifest.device
    if not profile_of(device).has_tensorrt:
        raise EngineError(
            f"{path} is for a processor and runs as it is, nothing is left to compile; measure it with: gnet-edge bench"
            f" {path}"
        )
    with open_bundle(bundle, engine=EngineName.TENSORRT, progress=progress) as engine:
        if not isinstance(engine, TensorRtEngine):
            raise EngineError(f"{path} was opened by {engine.spec.backend}, which compiles nothing")
        plan = engine.plan
    record = plan.record
    return Compiled(
        bundle=str(path),
        folder=str(plan.folder),
        library=record.key.library,
        gpu=record.key.gpu,
        size=record.size,
        seconds=record.seconds,
        reused=plan.reused,
        placement=record.placement,
    )
