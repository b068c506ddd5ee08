"""Running a foreign network with ONNX Runtime, whose errors become clear ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.file import ForeignFile, why

Arrays = dict[str, NDArray[Any]]

_SILENT = 4


def open_session(model: onnx.ModelProto, where: str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, silent. Raises `GraphError`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # the runtime's own errors have no common base
        raise GraphError(f"ONNX Runtime cannot run {where} ({why(problem)}); export it again") from problem


def run_session(
    session: onnxruntime.InferenceSession, outputs: list[str], feed: Arrays, where: str
) -> list[NDArray[Any]]:
    """The outputs of one run. Raises `GraphError`."""
    try:
        found: list[NDArray[Any]] = session.run(outputs, feed)
    except Exception as problem:  # as above
        raise GraphError(f"ONNX Runtime cannot run {where} ({why(problem)}); export it again") from problem
    return found


class Original:
    """A file up to one of its tensors, run on one image after the other."""

    def __init__(self, file: ForeignFile, tensor: str) -> None:
        """Loads the file. Raises `GraphError`."""
        model = onnx.ModelProto()
        model.CopyFrom(file.model)
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        self._file, self._tensor = file, tensor
        self._session = open_session(model, str(file.path))

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the tensor is: float32 ``(N, 3, crop, crop)`` → float64 ``(N, …)``. Raises `GraphError`."""
        rows = []
        for image in images:
            feed = {self._file.input: np.repeat(image[None], self._file.batch, axis=0)}
            [found] = run_session(self._session, [self._tensor], feed, str(self._file.path))
            rows.append(found[:1].astype(np.float64))
        return np.concatenate(rows)
