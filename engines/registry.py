"""The known backends. A new one is a module with an opener, one entry in `BACKENDS`, and the shared contract tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from googlenet_edge.engines.bundle import Bundle
from googlenet_edge.engines.golden import check_golden
from googlenet_edge.engines.protocol import Engine, EngineOptions
from googlenet_edge.errors import BundleError, EngineError
from googlenet_edge.target import Device

Opener = Callable[[bytes, EngineOptions], Engine]
"""The bytes of a lowered model → an open engine; raises `EngineError` where the runtime is missing or refuses it."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A runtime that executes models lowered for one device."""

    name: str
    device: Device
    open: Opener


def _onnxruntime_cpu(model: bytes, options: EngineOptions) -> Engine:
    from googlenet_edge.engines.onnxruntime_cpu import OnnxRuntimeCpu  # noqa: PLC0415  (a runtime is loaded when used)

    return OnnxRuntimeCpu(model, options)


BACKENDS: tuple[Backend, ...] = (Backend("onnxruntime", Device.CPU, _onnxruntime_cpu),)
"""In the order of preference: the first of a device is its default."""


def backend_for(device: Device) -> Backend:
    """The default backend of a device. Raises `EngineError` where this version has none."""
    for backend in BACKENDS:
        if backend.device is device:
            return backend
    known = ", ".join(sorted({backend.device.value for backend in BACKENDS}))
    raise EngineError(f"this version has no backend for the device {device.value}; use --device with one of: {known}")


def open_bundle(bundle: Bundle, *, threads: int = 1) -> Engine:
    """Opens a bundle's model on its device and proves that it computes here what it computed where it was built.

    Raises:
        EngineError: the runtime is missing or refuses the model.
        BundleError: the model does not fit the bundle, or gives other logits for the golden vectors.
    """
    options = EngineOptions(threads=threads, weight_bits=bundle.manifest.weight_bits)
    engine = backend_for(bundle.manifest.device).open(bundle.model, options)
    try:
        _check_fit(engine, bundle)
        logits = engine.run(bundle.golden.pixels)
        check_golden(bundle.golden, logits, precision=bundle.manifest.precision, where=bundle.where)
    except BaseException:
        engine.close()
        raise
    return engine


def _check_fit(engine: Engine, bundle: Bundle) -> None:
    spec, crop, classes = engine.spec, bundle.manifest.preprocess.crop, len(bundle.class_names)
    if (spec.crop, spec.classes) != (crop, classes):
        raise BundleError(
            f"{bundle.where}: the model takes {spec.crop} pixels and gives {spec.classes} classes, the manifest says"
            f" {crop} and {classes}; build the bundle again"
        )
