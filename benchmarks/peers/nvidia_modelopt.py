"""NVIDIA Model Optimizer's post-training quantization of an ONNX file with its defaults, calibrated on the processor.

It places Q/DQ for TensorRT (entropy ranges, s8, weights with a range a channel) and turns what stays float into
float16.
"""

from __future__ import annotations

import shutil

import numpy as np
from handover import INPUT, Handover, answer
from modelopt.onnx.quantization import quantize as modelopt_quantize


def quantize(given: Handover) -> None:
    graph = given.out / "graph.onnx"  # it writes files beside its input
    shutil.copyfile(given.graph, graph)
    modelopt_quantize(
        str(graph),
        calibration_data={INPUT: np.array(given.images)},
        calibration_eps=["cpu"],
        output_path=str(given.out / "model.onnx"),
    )


if __name__ == "__main__":
    answer(quantize, ("nvidia-modelopt", "onnx", "numpy"))
