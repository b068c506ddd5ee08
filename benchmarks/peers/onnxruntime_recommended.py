"""ONNX Runtime's `quantize_static` as its documentation recommends it for x86 processors, with min/max ranges.

That is `quant_pre_process`, u8 activations, s8 weights with a range a channel, which have 7 bits on a processor
without VNNI. Source: the docstring of `quantize_static`, "Choosing parameters for CPU inference".
"""

from __future__ import annotations

from handover import Handover, answer
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime_reader import Reader


def quantize(given: Handover) -> None:
    quantize_recommended(given, CalibrationMethod.MinMax)


def quantize_recommended(given: Handover, method: CalibrationMethod) -> None:
    """The same with another way to find ranges."""
    prepared = given.out / "prepared.onnx"
    quant_pre_process(str(given.graph), str(prepared))
    quantize_static(
        str(prepared),
        str(given.out / "model.onnx"),
        Reader(given),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=given.saturates,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        extra_options={"CalibStridedMinMax": given.at_once} if given.at_once else None,
    )
    prepared.unlink()


if __name__ == "__main__":
    answer(quantize, ("onnxruntime", "onnx", "numpy"))
