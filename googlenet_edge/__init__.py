"""A GoogLeNet, from images to a measured INT8 or FP16 engine on an edge device.

import googlenet_edge

with googlenet_edge.load("runs/demo/int8-cpu") as model:
    print(model.predict("photo.jpg"))
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime 1.29 and newer reports models and the machine to Microsoft, unless this is set when it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from googlenet_edge.errors import EdgeError
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import EngineName

if TYPE_CHECKING:
    from googlenet_edge.engines.predictor import ImageSource, Prediction, Predictor

__all__ = ["EdgeError", "EngineName", "ImageSource", "Prediction", "Predictor", "Preprocess", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """What `load` gives and takes; it is imported only when it is used, since it is of the layer above."""
    if name not in ("ImageSource", "Prediction", "Predictor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from googlenet_edge.engines import predictor  # noqa: PLC0415  (as said above)

    return getattr(predictor, name)


def load(
    path: str | Path,
    *,
    threads: int = 1,
    streams: int = 1,
    engine: EngineName | str | None = None,
    build: bool = True,
) -> Predictor:
    """Opens a bundle for prediction; needs neither torch nor onnx.

    Everything is verified first: schema, hashes, and that the model computes here what it computed where it was built.

    Args:
        path: a folder that ``gnet-edge build`` wrote; ``~`` is the home.
        threads: processor threads for one inference.
        streams: images of a batch that are computed at the same time, each with ``threads``. For many images,
            ``streams`` as many as cores gives the most of them a second; for one image, ``threads`` gives it soonest.
        engine: the runtime, such as ``openvino``; by default the one for which the bundle was built. ``simulated`` runs
            on any processor what was built for a GPU: slow, and with the same numbers.
        build: whether TensorRT may compile a model that it has not compiled on this device yet, which takes minutes.

    Raises:
        BundleError: the bundle is damaged, of a newer schema, or computes something else on this machine.
        EngineError: the runtime is missing or refuses the model, or it is not compiled and may not be.
    """
    from googlenet_edge.engines.predictor import load_predictor  # noqa: PLC0415  (the layer above, only when used)

    home = Path(os.path.expanduser(path))  # noqa: PTH111  (never raises)
    return load_predictor(home, threads=threads, streams=streams, engine=engine, build=build)
