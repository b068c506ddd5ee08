"""ONNX Runtime's `quantize_static` as its documentation recommends it, with its entropy ranges.

Its histograms want the activations of all images in memory; ``--at-once`` has it merge them every so many images.
"""

from __future__ import annotations

from handover import Handover, answer
from onnxruntime.quantization import CalibrationMethod
from onnxruntime_recommended import quantize_recommended


def quantize(given: Handover) -> None:
    quantize_recommended(given, CalibrationMethod.Entropy)


if __name__ == "__main__":
    answer(quantize, ("onnxruntime", "onnx", "numpy"))
