"""A bundle for a Jetson on that Jetson: `gnet-edge build BUNDLE` compiles it there, once, and `load` if it may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command import gnet_edge
from tensorrt_machine import Machine, batch, machine_at
from tiny_bundles import write_colour_bundle

import googlenet_edge
from googlenet_edge.engines.bundle import Bundle, Manifest, write_bundle
from googlenet_edge.engines.golden import Golden
from googlenet_edge.engines.predictor import load_predictor
from googlenet_edge.errors import EngineError
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineName, Precision


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine_at(monkeypatch, tmp_path / "cache") as machine:
        yield machine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Built on a workstation, where it was only simulated; the network gives the mean of each channel."""
    pixels = batch(2)
    golden = Golden(pixels, pixels.mean(axis=(1, 2)).astype(np.float32))
    manifest = Manifest(Precision.INT8, Device.AGX_ORIN, Preprocess(9, 8), engine=EngineName.SIMULATED)
    write_bundle(tmp_path / "int8-agx-orin", Bundle(manifest, ("red", "green", "blue"), b"graph", golden))
    return tmp_path / "int8-agx-orin"


@pytest.mark.usefixtures("orin")
def test_build_compiles_a_bundle_once_and_says_where_the_plan_is(bundle: Path, tmp_path: Path) -> None:
    first = gnet_edge("build", bundle, "--json", cwd=tmp_path)
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert (found["library"], found["reused"]) == ("tensorrt 10.3.0", False)
    assert found["folder"].startswith(str(tmp_path / "cache"))
    assert "compiled in" in first.err and "the golden vectors give the same logits" in first.err
    again = gnet_edge("build", bundle, cwd=tmp_path)
    assert again.code == 0 and "there already" in again.err


@pytest.mark.usefixtures("orin")
def test_a_plan_that_computes_something_else_is_an_error(bundle: Path, tmp_path: Path) -> None:
    pixels = batch(2)
    manifest = Manifest(Precision.INT8, Device.AGX_ORIN, Preprocess(9, 8), engine=EngineName.SIMULATED)
    golden = Golden(pixels, -pixels.mean(axis=(1, 2)).astype(np.float32))
    write_bundle(bundle, Bundle(manifest, ("red", "green", "blue"), b"graph", golden))
    done = gnet_edge("build", bundle, cwd=tmp_path)
    assert (done.code, done.out) == (1, "") and "golden" in done.err


def test_a_bundle_for_a_processor_has_nothing_to_compile(tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "fp32-cpu")
    done = gnet_edge("build", path, cwd=tmp_path)
    assert done.code == 1
    assert f"{path} is for a processor and runs as it is, nothing is left to compile" in done.err


def test_without_tensorrt_build_says_how_to_get_it(bundle: Path, tmp_path: Path) -> None:
    done = gnet_edge("build", bundle, cwd=tmp_path)
    assert done.code == 1 and "tensorrt cannot be loaded" in done.err


@pytest.mark.usefixtures("orin")
def test_load_compiles_unless_it_is_told_not_to(bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"not compiled for this device yet .*; compile it with: gnet-edge build"):
        googlenet_edge.load(bundle, build=False)
    googlenet_edge.load(bundle).close()
    googlenet_edge.load(bundle, build=False).close()


@pytest.mark.usefixtures("orin")
def test_opening_tells_how_far_the_compiler_is(bundle: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_predictor(bundle, progress=lambda done, total: seen.append((done, total))).close()
    assert seen and seen[-1][0] == seen[-1][1]
