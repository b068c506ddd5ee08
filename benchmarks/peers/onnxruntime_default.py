"""ONNX Runtime's `quantize_static` as it is called with nothing but the model and the images.

That is Q/DQ form, s8 activations and weights, one range a tensor, min/max.
"""

from __future__ import annotations

from handover import Handover, answer
from onnxruntime.quantization import quantize_static
from onnxruntime_reader import Reader


def quantize(given: Handover) -> None:
    quantize_static(str(given.graph), str(given.out / "model.onnx"), Reader(given))


if __name__ == "__main__":
    answer(quantize, ("onnxruntime", "onnx", "numpy"))
