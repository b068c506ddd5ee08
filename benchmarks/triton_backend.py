"""What plays Triton's ONNX Runtime backend, in Triton's Python backend: `triton_server.py` puts it there.

As far as `config.pbtxt` asks anything of that backend: the bundle's model, on one thread, a batch as it comes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton  # Triton's own, which is beside its backend


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, given: dict[str, str]) -> None:
        """Called once, before the first request."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = Path(given["model_repository"], given["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers requests that Triton has gathered."""
        batches = [triton.get_input_tensor_by_name(each, "pixels").as_numpy() for each in requests]
        (logits,) = self.session.run(["logits"], {"pixels": np.concatenate(batches)})
        ends = np.cumsum([len(each) for each in batches])
        return [triton.InferenceResponse([triton.Tensor("logits", part)]) for part in np.split(logits, ends[:-1])]
