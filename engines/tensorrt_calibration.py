"""Scales that TensorRT finds by itself, on the device and on images: for who trusts its calibrator more than our table.

Only where TensorRT quantizes a float graph: on a DLA, up to TensorRT 10.7.
"""

from __future__ import annotations

import traceback
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.bundle import Bundle, Golden, check_place, read_bundle, write_bundle
from googlenet_edge.engines.cuda_device import Buffer, CudaDevice, load_driver, new_stream
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.onnxruntime_cpu import Simulated
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.tensorrt_builder import PlanRequest, build_plan
from googlenet_edge.engines.tensorrt_library import Flavour, calibrator_of, load_library
from googlenet_edge.errors import EngineError, OutputError
from googlenet_edge.files import real_path

_FASTEST = 0
"""The optimization level of a plan that is thrown away."""


def calibratable(path: Path, out: Path) -> Bundle:
    """The bundle at a path, if another can be written at ``out``.

    Raises `EngineError` where TensorRT does not choose its scales, `BundleError`, `OutputError`.
    """
    check_place(out)
    if real_path(out) == real_path(path):
        raise OutputError(f"{out} is the bundle whose scales are to be found anew; give another --out")
    bundle = read_bundle(path)
    if not bundle.calibration_cache:
        raise EngineError(
            f"{path} has its scales in the graph, or none; TensorRT calibrates only bundles for a DLA in int8, which"
            " gnet-edge build --precision int8 --dla makes; leave --data out"
        )
    return bundle


def calibrate_with_tensorrt(
    path: Path, pixels: NDArray[np.uint8], out: Path, *, progress: Progress | None = None
) -> Bundle:
    """Writes a copy of a bundle for a DLA whose scales are those that TensorRT's calibrator finds here.

    Its golden logits are simulated anew; its accuracy is not known until it is evaluated.

    Args:
        pixels: uint8 ``(N, crop, crop, 3)`` to calibrate on.
        progress: told how far TensorRT is, where it tells.

    Raises:
        BundleError, CalibrationError: the bundle is damaged, or TensorRT wrote no scales.
        EngineError: see `calibratable`; TensorRT, pycuda or the GPU is missing; or TensorRT refuses the model.
        OutputError: ``out`` cannot be written.
    """
    bundle = calibratable(path, out)
    Simulated(bundle.model, EngineOptions(calibration_cache=bundle.calibration_cache)).close()  # or it fails at the end
    cache, library = _cache_of(bundle, pixels, progress)
    with Simulated(bundle.model, EngineOptions(calibration_cache=cache)) as simulated:
        golden = Golden(bundle.golden.pixels, simulated.run(bundle.golden.pixels))
    manifest = replace(
        bundle.manifest,
        lineage=replace(bundle.manifest.lineage, calibration=None),
        accuracy=None,
        against_fp32=None,
        float_layers=(),
        notes=(f"the scales are those of {library}'s calibrator on {len(pixels)} images; accuracy: not measured",),
    )
    made = replace(bundle, manifest=manifest, golden=golden, calibration_cache=cache, where=str(out))
    write_bundle(out, made)
    return made


class Upload:
    """Brings one image at a time to the device. Made, used and closed while the device is current."""

    def __init__(self, driver: Any, crop: int) -> None:
        """Raises `EngineError` where there is no memory."""
        self._stream = new_stream(driver)
        self._buffer = Buffer(driver, (1, crop, crop, 3), np.float32)

    def __call__(self, image: NDArray[np.uint8]) -> int:
        """uint8 ``(crop, crop, 3)`` → where it is on the device as float32, once it is there."""
        self._buffer.host[:1] = image
        self._buffer.to_device(self._stream, 1)
        self._stream.synchronize()
        return self._buffer.address

    def close(self) -> None:
        """Gives the memory back."""
        self._buffer.free()
        self._stream = None


def _release_frames(_: object, __: object, trace: TracebackType | None) -> None:
    """What a failed build holds must go before the device does."""
    if trace:
        traceback.clear_frames(trace)


def _cache_of(bundle: Bundle, pixels: NDArray[np.uint8], progress: Progress | None) -> tuple[bytes, str]:
    """The calibration cache that TensorRT writes, less the scales of logits, and which TensorRT that is."""
    from googlenet_edge.calibration.trt_cache import without_outputs  # noqa: PLC0415  (needs onnx, all else does not)

    profile, library = profile_of(bundle.manifest.device), load_library(Flavour.TENSORRT)
    request = PlanRequest(
        bundle.model, bundle.manifest.precision, profile.workspace_bytes, level=_FASTEST, unit=bundle.manifest.unit
    )
    with ExitStack() as made:
        device = CudaDevice(load_driver())
        made.callback(device.close)
        made.enter_context(device.current())
        upload = Upload(device.driver, pixels.shape[1])
        made.callback(upload.close)
        made.push(_release_frames)
        calibrator = calibrator_of(library, images=map(upload, pixels))
        build_plan(library, request, gpu=device.name, calibrator=calibrator, progress=progress)
        cache: bytes = calibrator.written
    if calibrator.given != len(pixels):
        raise EngineError(
            f"{library} calibrated on {calibrator.given} of {len(pixels)} images; see its messages in the log"
        )
    if not cache:
        raise EngineError(f"{library} built a plan and wrote no scales; see its messages in the log")
    return without_outputs(bundle.model, cache), str(library)
