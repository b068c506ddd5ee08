"""Photos as people took them, from the folder beside the repository: decoded, checked, calibrated on and run."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from networks import made_checkpoint
from numpy.typing import NDArray

from googlenet_edge.calibration.calibrate import calibrate
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.rewrites import Rewrite
from googlenet_edge.dataset import Checked, check_images, load_pixels, open_images
from googlenet_edge.engines.lowering import Lowered, audited, lower, rewritten
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.export import check_parity, export
from googlenet_edge.target import Device, Precision

pytestmark = pytest.mark.realdata
PER_CLASS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """Some flower photos of many sizes."""
    folder = tmp_path_factory.mktemp("flowers")
    taken: dict[str, int] = {}
    with tarfile.open(SHARED / "data" / "flowers" / "val.tar") as archive:
        for member in archive:
            path = Path(member.name)
            if member.isfile() and taken.setdefault(path.parent.name, 0) < PER_CLASS:
                taken[path.parent.name] += 1
                archive.extract(member, folder, filter="data")
    preprocess = made_checkpoint(crop=64).info.preprocess
    return check_images(open_images(folder / "val"), preprocess=preprocess)


def test_real_photos_are_whole_and_of_many_sizes(photos: Checked) -> None:
    assert photos.damaged == ()
    assert len(photos.images) == 5 * PER_CLASS


def test_real_photos_agree_in_pytorch_onnx_and_int8(photos: Checked) -> None:
    checkpoint = made_checkpoint(classes=5, crop=64)
    graph = export(checkpoint)
    pixels = np.stack(list(load_pixels(photos.images, graph.preprocess)))
    assert check_parity(graph, checkpoint, graph.preprocess.normalize(pixels)) <= 1e-4
    table = calibrate(graph, photos, method=RangeMethod.MINMAX)
    exact = lower(graph, device=Device.CPU, precision=Precision.FP32, table=None)
    lowered = lower(graph, device=Device.CPU, precision=Precision.INT8, table=table)
    assert audited(lowered).notes == ("on integers: 57 of 57 Conv, 13 of 13 MaxPool, 9 of 9 Concat",)
    assert len(lowered.model) < 0.27 * len(exact.model)
    expected, found = logits(exact, pixels), logits(lowered, pixels)
    assert signal_to_noise_db(expected, found) > 12  # noise of the size of 1/4
    squares, both = (
        rewritten(lowered, rewrites)
        for rewrites in ([Rewrite.SPACE_TO_DEPTH], [Rewrite.SPACE_TO_DEPTH, Rewrite.MERGED_POINTWISE])
    )
    assert squares is not None
    assert both is not None
    assert np.array_equal(logits(squares, pixels), found)
    assert signal_to_noise_db(found, logits(both, pixels)) > 40  # some codes lie at the middle between two


def logits(lowered: Lowered, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with backend_for(Device.CPU).open(lowered.model, EngineOptions()) as engine:
        return engine.run(pixels)


def signal_to_noise_db(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    noise = np.square(found - expected, dtype=np.float64).sum()
    return 10 * math.log10(np.square(expected, dtype=np.float64).sum() / noise) if noise else math.inf
