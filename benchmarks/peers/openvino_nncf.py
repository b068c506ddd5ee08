"""NNCF's `quantize` of the OpenVINO model that OpenVINO reads from the graph, with NNCF's defaults.

But for one of them: it would look at the first 300 images only, and gets all. They are sorted by class.
"""

from __future__ import annotations

import nncf
import openvino
from handover import Handover, answer


def quantize(given: Handover) -> None:
    model = openvino.Core().read_model(given.graph)
    quantized = nncf.quantize(model, nncf.Dataset(list(given.batches())), subset_size=len(given.images))
    openvino.save_model(quantized, given.out / "model.xml")


if __name__ == "__main__":
    answer(quantize, ("nncf", "openvino", "numpy"))
