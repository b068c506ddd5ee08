"""Whether images are told apart from those that were calibrated on."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tiny_graph import one_by_one, table_of, tiny_graph, tiny_images

from googlenet_edge.calibration.calibrate import times_as_far, unlike
from googlenet_edge.errors import CalibrationError

GRAPH = tiny_graph()
TABLE = table_of(GRAPH, count=48)


def found(images: np.ndarray) -> float:
    return times_as_far(GRAPH, TABLE, one_by_one(images)())


def test_other_images_of_the_same_kind_are_not_told_apart() -> None:
    assert unlike(found(tiny_images(24, seed=99))) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [(0.3, r"large 0\.\d\d times as often"), (3.0, r"large \d+\.\d times as often")],
    ids=["faint", "glaring"],
)
def test_images_that_drive_the_network_otherwise_are_told_apart(change: float, said: str) -> None:
    sentence = unlike(found((tiny_images(24, seed=99) * change).astype(np.float32)))
    assert sentence is not None
    assert sentence.startswith("the images that were calibrated on may be of another kind than those of the validation")
    assert re.search(said, sentence)


@pytest.mark.parametrize("times", [0.45, 1.55])
def test_what_draws_of_the_same_images_differ_by_is_no_other_kind(times: float) -> None:
    assert unlike(times) is None


@pytest.mark.parametrize("times", [0.14, 2.49])
def test_what_images_of_another_task_were_seen_to_give_is_another_kind(times: float) -> None:
    assert unlike(times) is not None


def test_a_few_values_tell_nothing() -> None:
    assert found(tiny_images(0)) == 1
    assert unlike(1) is None


def test_the_table_must_be_that_of_the_graph() -> None:
    with pytest.raises(CalibrationError, match="belongs to the graph"):
        times_as_far(tiny_graph(seed=1), TABLE, [])
