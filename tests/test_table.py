"""The calibration table as a file: whole, checked, and the same for the same images."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_graph import one_by_one, table_of, tiny_graph, tiny_images, whole_googlenet

from googlenet_edge import __version__
from googlenet_edge.calibration.collect import collect
from googlenet_edge.calibration.placement import WITH_WEIGHTS
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import Rounding, encode_floats, encode_steps, make_table, read_table
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.errors import CalibrationError
from googlenet_edge.files import to_json, write_json
from googlenet_edge.graph import InferenceGraph


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    write_json(path, table_of(tiny_graph()))
    return path


def change(path: Path, **fields: Any) -> None:
    """Changes fields of the tensor ``stem``."""
    value = json.loads(path.read_bytes())
    value["tensors"]["stem"].update(fields)
    path.write_text(json.dumps(value))


def test_table_comes_back_as_it_was_written(path: Path) -> None:
    table = read_table(path)
    assert table == table_of(tiny_graph())
    assert table.tool_version == __version__
    assert table.graph_sha256 == tiny_graph().sha256
    assert table.image_count == 12
    assert table.tensors["stem"].histogram.counts.sum() == 12 * 8 * 16 * 16


def test_table_is_the_same_file_for_the_same_images_in_any_order(tmp_path: Path) -> None:
    graph, images = tiny_graph(), tiny_images(10)
    files = []
    for name, order in {"a": images, "b": images[::-1]}.items():
        statistics = collect(graph, one_by_one(order), count=10)
        write_json(tmp_path / name, make_table(graph, statistics, images_sha256="", method=RangeMethod.ENTROPY))
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("method", RangeMethod)
def test_table_with_another_method_equals_one_made_with_it(method: RangeMethod) -> None:
    assert table_of(tiny_graph()).with_method(method) == table_of(tiny_graph(), method=method)


def test_table_of_the_whole_network_stays_small(tmp_path: Path) -> None:
    """Also with codes that are as far from the nearest as those of a trained network: one weight in five is off."""
    table, rng = table_of(whole_googlenet(), count=8), np.random.default_rng(0)
    tensors = {name: replace(each, peaks=each.counts) for name, each in table.tensors.items()}
    table = replace(table, tensors=tensors)
    assert len(to_json(table)) < 1_000_000
    weights = {node.name: whole_googlenet().weights[node.input[1]] for node in with_weights(whole_googlenet())}
    steps = {name: rng.choice([-1, 0, 1], w.shape, p=[0.1, 0.8, 0.1]).astype(np.int8) for name, w in weights.items()}
    rounding = {name: Rounding(encode_steps(each), encode_steps(each)) for name, each in steps.items()}
    write_json(tmp_path / "t", replace(table, rounding=rounding))
    assert (tmp_path / "t").stat().st_size < 4_000_000
    read = read_table(tmp_path / "t").steps(WeightRange.REDUCED)
    assert all(np.array_equal(read[name], each.reshape(-1)) for name, each in steps.items())


def with_weights(graph: InferenceGraph) -> list[onnx.NodeProto]:
    return [node for node in graph.model.graph.node if node.op_type in WITH_WEIGHTS]


def test_table_of_a_newer_schema_is_refused_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('{"schema": 6, "tensors": "in another form"}')
    with pytest.raises(CalibrationError, match="schema 6, this version reads up to 5; upgrade googlenet-edge"):
        read_table(tmp_path / "t")


def test_table_that_is_missing_cut_off_or_no_table_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is missing"):
        read_table(tmp_path / "none.json")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"[]", b"\xff\xfe", b'{"schema": 5}'):
        path.write_bytes(damaged)
        with pytest.raises(CalibrationError, match="cannot be read"):
            read_table(path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"low": 0.5}, "Expected `float` <= 0"),
        ({"high": -1.0}, "Expected `float` >= 0"),
        ({"low": 0.0, "high": 0.0}, "the tensor stem has a range of nothing; calibrate again"),
        ({"low": 0.0, "high": 1e-60}, "the tensor stem has a range of nothing; calibrate again"),
        ({"amax": 0.0}, "Expected `float` >= "),
        ({"amax": -2.0}, "Expected `float` >= "),
        ({"amax": 1e-60}, "Expected `float` >= "),
    ],
)
def test_table_with_a_range_that_cannot_be_is_refused(path: Path, fields: dict[str, float], sentence: str) -> None:
    change(path, **fields)
    with pytest.raises(CalibrationError, match=sentence):
        read_table(path)


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (base64.b64encode(b"not deflated").decode(), "damaged histogram"),
        (packed(b"\x01" * 100), "not 2048 counts"),
        (packed(b"\x00" * 2048 * 8), "histogram without values"),
        (packed(np.full(2048, -1, "<i8").tobytes()), "not 2048 counts"),
        (packed(np.full(2048, 2**62, "<i8").tobytes()), "not 2048 counts"),
        (packed(np.ones(2048, "<i8").tobytes())[:20], "damaged histogram|not 2048 counts"),
    ],
)
def test_table_with_a_damaged_histogram_is_refused(path: Path, counts: str, sentence: str) -> None:
    change(path, counts=counts)
    with pytest.raises(CalibrationError, match=f"the tensor stem has a .*({sentence}).*calibrate again"):
        read_table(path)


@pytest.mark.parametrize("field", ["low", "high", "amax", "minimum", "maximum"])
def test_table_with_a_number_that_no_float32_holds_is_refused(path: Path, field: str) -> None:
    change(path, **{field: -1e300 if field in ("low", "minimum") else 1e300})
    with pytest.raises(CalibrationError, match=r"table\.json cannot be read: Expected `float` [<>]= "):
        read_table(path)


@pytest.mark.parametrize("ends", [(0.0, 0.0), (1.0, 0.5), (0.0, 5e-324)])
def test_table_with_extremes_that_cannot_be_is_refused(path: Path, ends: tuple[float, float]) -> None:
    change(path, minimum=ends[0], maximum=ends[1])
    with pytest.raises(CalibrationError, match="the tensor stem has a range of nothing; calibrate again"):
        read_table(path)


@pytest.mark.parametrize("text", ["not base64!", "eJxjYI"])
def test_table_with_what_is_no_base64_is_refused(path: Path, text: str) -> None:
    change(path, counts=text)
    with pytest.raises(CalibrationError, match=r"table\.json cannot be read: Invalid base64"):
        read_table(path)


def test_table_with_damaged_peaks_is_refused(path: Path) -> None:
    change(path, peaks=packed(b"\x01" * 100))
    with pytest.raises(CalibrationError, match="the tensor stem has a histogram that is not 2048 counts"):
        read_table(path)


@pytest.mark.parametrize("steps", [packed(bytes(8))[:8], packed(bytes((128 << 20) + 1))])
def test_table_with_damaged_rounding_is_refused(path: Path, steps: str) -> None:
    value = json.loads(path.read_bytes())
    value["rounding"] = {"stem_conv": {"full": packed(bytes(216)), "reduced": steps}}
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="table.json: the rounding is damaged .*; calibrate again"):
        read_table(path)


def test_table_with_rounding_of_more_weights_than_any_network_has_is_refused(path: Path) -> None:
    """No layer of them alone has too many."""
    value = json.loads(path.read_bytes())
    large, none = packed(bytes(65 << 20)), packed(b"")
    value["rounding"] = {name: {"full": none, "reduced": large} for name in ("stem_conv", "left_conv")}
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="table.json: the rounding is damaged .*; calibrate again"):
        read_table(path)


@pytest.mark.parametrize("mean", [float("nan"), float("-inf")])
def test_table_with_means_that_cannot_be_is_refused(path: Path, mean: float) -> None:
    value = json.loads(path.read_bytes())
    value["means"] = {"stem_conv": base64.b64encode(encode_floats(np.array([1.0, mean]))).decode()}
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="the means of stem_conv are not finite; calibrate again"):
        read_table(path)


@pytest.mark.parametrize("factor", [0.0, 1e-45, 65.0, float("nan"), float("inf")])
def test_table_with_factors_that_cannot_be_is_refused(path: Path, factor: float) -> None:
    value = json.loads(path.read_bytes())
    factors = encode_floats(np.array([1.0, factor], np.float32))
    value["rescale"] = {"stem_conv": base64.b64encode(factors).decode()}
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="the factors of stem_conv are not all from 1 to 64; calibrate again"):
        read_table(path)


def test_table_with_a_histogram_that_inflates_without_end_costs_no_memory(path: Path) -> None:
    change(path, counts=packed(bytes(30_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(CalibrationError, match="does not end where it should"):
            read_table(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
