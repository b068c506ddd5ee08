"""The calibration that chooses by trial: what it tries, what it keeps, and that it depends on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_rescale import extremes_of, logits, uneven
from threadpoolctl import threadpool_info
from tiny_graph import CROP, TINY, tiny_graph, tiny_images

from googlenet_edge.calibration import calibrate as calibration
from googlenet_edge.calibration import choose
from googlenet_edge.calibration.calibrate import calibrate, table_at
from googlenet_edge.calibration.choose import Preparation, Rare, Trials
from googlenet_edge.calibration.extremes import ChannelExtremes, rarest
from googlenet_edge.calibration.lower import lower_int8_cpu
from googlenet_edge.calibration.pixels import PIXELS
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.rescale import rescaled_extremes
from googlenet_edge.calibration.table import (
    CalibrationTable,
    Rounding,
    decode_floats,
    encode_floats,
    encode_steps,
    read_table,
)
from googlenet_edge.dataset import KEPT_BYTES, Checked, ImageSet, check_images
from googlenet_edge.engines.sensitivity import noise
from googlenet_edge.errors import CalibrationError
from googlenet_edge.files import write_json

GRAPH = uneven(tiny_graph(), factor=40.0)


def images_in(folder: Path, count: int) -> Checked:
    """Different PNGs of the size of the network's input."""
    for i, image in enumerate(tiny_images(count, seed=5)):
        pixels = np.rint((image + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
        (folder / "class").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "class" / f"{i}.png")
    paths = tuple(sorted(folder.glob("class/*.png")))
    found = ImageSet(folder, ("class", "other"), paths, (0,) * count)
    return check_images(found, preprocess=GRAPH.preprocess, kept_bytes=KEPT_BYTES)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return images_in(tmp_path_factory.mktemp("images"), 50)


@pytest.fixture(scope="module")
def table(images: Checked) -> CalibrationTable:
    return calibrate(GRAPH, images)


def test_calibrate_takes_one_of_each_kind_by_its_score(table: CalibrationTable) -> None:
    assert table.choice is not None
    assert (table.image_count, table.choice.images) == (50, 10)
    scores = {trial.what: trial.sqnr_db for trial in table.choice.trials}
    taken = [trial.what for trial in table.choice.trials if trial.taken]
    assert len(taken) == 4
    assert taken[0] == "rescale"  # the channels were made uneven
    assert scores[taken[0]] > scores["no rescale"] + 5
    assert bool(table.rounding) == (taken[1] == "rounded together")
    assert bool(table.means) == (taken[2] == "bias correction")
    assert taken[3] == table.method.value
    assert scores["minmax"] > scores["headroom"] + 0.5  # no held-out image is clipped, which says nothing of the next
    assert table.method is RangeMethod.HEADROOM


def test_calibrate_by_trial_loses_less_on_other_images_than_plain_ranges(table: CalibrationTable) -> None:
    others = tiny_images(32, seed=77)
    expected = logits(GRAPH.model, others)
    plain = replace(table.with_method(RangeMethod.MINMAX), rescale={}, rounding={}, means={}, tensors=plain_tensors())
    found = [noise(expected, logits(lower_int8_cpu(GRAPH, each), others)).sqnr_db for each in (table, plain)]
    assert found[0] > found[1] + 5


def plain_tensors() -> dict[str, object]:
    from tiny_graph import table_of

    return dict(table_of(GRAPH, count=40).tensors)


def test_calibrate_by_trial_gives_the_same_table_in_any_order(images: Checked, table: CalibrationTable) -> None:
    backwards = images.images.take(list(range(len(images.images)))[::-1])
    assert calibrate(GRAPH, replace(images, images=backwards)) == table


def test_calibrate_looks_closer_at_some_images(images: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("_CLOSE_IMAGES", 20), ("_COUNTED_IMAGES", 17), ("_MOST_HELD_OUT", 8), ("_MOST_PEAKS", 27)):
        monkeypatch.setattr(calibration, name, most)
    told: list[tuple[int, int]] = []
    table = calibrate(GRAPH, images, progress=lambda done, total: told.append((done, total)))
    assert table.choice is not None
    assert (table.image_count, table.choice.images) == (50, 8)
    pixels = table.tensors["images"].histogram
    assert (pixels.counts.sum(), pixels.peaks.sum()) == (17 * 3 * CROP**2, (27 + 1) * 3 * 2)
    assert told[-1] == (50 + 17 + 9 * 8 + 6,) * 2  # and the rarest, exactly and by each range method
    backwards = images.images.take(range(50)[::-1])
    for kept in ({}, dict(list(images.kept.items())[20:])):
        assert calibrate(GRAPH, replace(images, images=backwards, kept=kept)) == table


@pytest.mark.parametrize("place", ["measured", "held out"])
def test_calibrate_does_not_clip_a_rare_image_hard_because_others_gain(images: Checked, place: str) -> None:
    measured, held_out = calibration._parted(images.images)
    brightest = {"measured": measured.paths[30], "held out": held_out.paths[3]}[place]
    kept = {path: pixels // 4 + 96 for path, pixels in images.kept.items()}
    kept[brightest] = (255 * (images.kept[brightest] > 127)).astype(np.uint8)
    table = calibrate(GRAPH, replace(images, kept=kept))
    assert table.choice is not None
    assert table.method is RangeMethod.HEADROOM
    scores = {trial.what: trial.sqnr_db for trial in table.choice.trials}
    assert scores["entropy"] < scores["headroom"] - 3
    assert scores["entropy"] > 18, "it counts as one image in fifty"


def test_the_rarest_images_are_those_nearest_to_the_extremes_in_the_mean_over_tensors() -> None:
    def peaks(*high: float) -> ChannelExtremes:
        column = np.array(high, np.float32)[:, None]
        return ChannelExtremes(np.hstack([0 * column, -column / 2]), np.hstack([column / 4, column]))

    seen = {"large": peaks(50, 90, 10, 90, 100), "small": peaks(0.5, 0.8, 1.0, 0.8, 1.0)}
    assert rarest(seen, 4) == [1, 3, 2, 0]
    assert rarest(seen, 1) == [1]


@pytest.mark.parametrize("rare", ["entropy", "headroom"])
def test_trials_take_the_method_that_is_exact_on_held_out_images_if_rare_ones_do_not_lose_by_it(
    images: Checked, rare: str
) -> None:
    table = calibrate(GRAPH, images, method=RangeMethod.MINMAX).with_method(RangeMethod.HEADROOM)
    prepared = Preparation(GRAPH, {}, {})
    pixels = [each[None] for each in images.kept.values()]
    exact = {
        name: np.concatenate([session.run(None, {PIXELS: each})[0] for each in pixels])
        for name in ("entropy", "headroom")
        for session in [choose._session(prepared, table.with_method(RangeMethod(name)).ranges)]
    }
    others = Rare(pixels[10:], exact[rare][10:], 0.5, frozenset())
    trials = Trials(pixels[:10], exact["entropy"][:10], lambda: None)
    assert trials.method(prepared, table, others).method is RangeMethod(rare)


@pytest.mark.parametrize("place", ["close", "other", "held out"])
def test_calibrate_takes_the_extremes_of_all_images(
    images: Checked, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("_CLOSE_IMAGES", 20), ("_MOST_HELD_OUT", 6), ("_MOST_PEAKS", 10)):
        monkeypatch.setattr(calibration, name, most)
    measured, held_out = calibration._parted(images.images)
    brightest = {"close": measured.paths[19], "other": measured.paths[20], "held out": held_out.paths[0]}[place]
    kept = {path: pixels // 4 + 96 for path, pixels in images.kept.items()}
    kept[brightest] = (255 * (images.kept[brightest] > 127)).astype(np.uint8)
    table = calibrate(GRAPH, replace(images, kept=kept))
    seen = [GRAPH.preprocess.normalize(kept[path][None]) for path in images.images.paths]
    factors = {name: decode_floats(text) for name, text in table.rescale.items()}
    expected = rescaled_extremes(GRAPH, extremes_of(GRAPH, np.concatenate(seen)), factors)
    assert expected.keys() == table.tensors.keys()
    for name, channels in expected.items():
        assert table.tensors[name].maximum == pytest.approx(channels.whole.maximum, rel=1e-5), name
        assert table.tensors[name].histogram.peaks[-1] > 0, name


def test_calibrate_by_trial_refuses_a_nan_that_the_runtime_loses(
    images: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what weights are multiplied with, on an image that is looked at closely and not counted."""
    monkeypatch.setattr(calibration, "_COUNTED_IMAGES", 10)
    few = "few = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (stem_conv)"
    text = (
        TINY.replace("stem_conv = Conv", "root = Sqrt (images) stem_conv = Conv")
        .replace("(images, stem_weight", "(root, stem_weight")
        .replace("stem = Relu (stem_conv)", f"{few} stem = Relu (few)")
    )
    measured, _ = calibration._parted(images.images)
    kept = {path: np.maximum(pixels, 128) for path, pixels in images.kept.items()}
    kept[measured.paths[30]][5, 5] = 0
    with pytest.raises(CalibrationError, match="the activations of root go from nan to nan"):
        calibrate(tiny_graph(text), replace(images, kept=kept))


def test_calibrate_tries_on_the_images_that_it_saw(images: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the files become others meanwhile, and no pixels were kept."""
    images = replace(images, kept={})
    expected, trials = calibrate(GRAPH, images), calibration.Trials
    contents = {path: path.read_bytes() for path in images.images.paths}

    def all_become_the_first(*given: Any) -> object:
        for path in contents:
            path.write_bytes(next(iter(contents.values())))
        return trials(*given)

    monkeypatch.setattr(calibration, "Trials", all_become_the_first)
    try:
        assert calibrate(GRAPH, images) == expected
    finally:
        for path, data in contents.items():
            path.write_bytes(data)


def test_calibrate_with_a_method_tries_nothing(images: Checked) -> None:
    table = calibrate(GRAPH, images, method=RangeMethod.ENTROPY)
    assert (table.method, table.wished, table.choice, table.image_count) == (RangeMethod.ENTROPY,) * 2 + (None, 50)
    assert not table.rescale
    assert not table.rounding
    assert not table.means


def test_calibrate_on_few_images_takes_the_extremes(tmp_path: Path) -> None:
    table = calibrate(GRAPH, images_in(tmp_path, 12))
    assert (table.method, table.choice, table.image_count) == (RangeMethod.MINMAX, None, 12)


def test_calibrate_on_some_images_chooses_but_for_the_range_method(tmp_path: Path) -> None:
    table = calibrate(GRAPH, images_in(tmp_path, 20))
    assert table.choice is not None
    assert (table.method, table.choice.images) == (RangeMethod.HEADROOM, 4)
    assert {trial.what for trial in table.choice.trials} == {
        *("rescale", "no rescale", "rounded together", "nearest codes", "bias correction", "no bias correction")
    }


@pytest.mark.parametrize("place", ["other", "held out"])
def test_calibrate_by_trial_stands_a_layer_that_hardly_any_image_wakes(images: Checked, place: str) -> None:
    measured, held_out = calibration._parted(images.images)
    brightest = {"other": measured.paths[-1], "held out": held_out.paths[0]}[place]
    kept = {path: pixels // 4 + 96 for path, pixels in images.kept.items()}
    kept[brightest] = (255 * (images.kept[brightest] > 127)).astype(np.uint8)
    dark = np.concatenate([GRAPH.preprocess.normalize(kept[p][None]) for p in images.images.paths if p != brightest])
    highest = extremes_of(GRAPH, dark)["left"].high
    asleep = GRAPH.with_weights({"left_bias": GRAPH.weights["left_bias"] - np.float32(1.01) * highest - 0.01})
    assert not extremes_of(asleep, dark)["left"].high.any()
    table = calibrate(asleep, replace(images, kept=kept))
    assert table.ranges["left"].high > 0


def test_calibrate_refuses_images_of_one_colour_before_any_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(calibration, "Trials")
    found = images_in(tmp_path, 50)
    for path in found.images.paths:
        Image.new("RGB", (CROP, CROP)).save(path)
    with pytest.raises(CalibrationError, match="only 0 of 50 .* show more than one colour"):
        calibrate(GRAPH, replace(found, kept={}))


def test_calibrate_tells_its_progress_to_the_end(images: Checked) -> None:
    told: list[tuple[int, int]] = []
    calibrate(GRAPH, images, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))


def test_calibrate_by_trial_does_not_let_the_threads_of_blas_wait_for_each_other(images: Checked) -> None:
    threads = set[int]()
    calibrate(GRAPH, images, progress=lambda *_: threads.update(_threads_of_blas()))
    assert threads == {1}


def _threads_of_blas() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_a_table_of_an_older_version_is_made_again(
    images: Checked, table: CalibrationTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "calibration.json"
    write_json(path, replace(table, schema=4))
    path.write_text(path.read_text().replace('"peaks"', '"else"'))
    with pytest.raises(CalibrationError, match="calibration.json has schema 4, which says too little; calibrate again"):
        read_table(path)
    assert table_at(path, GRAPH, images, method=None) is None
    assert caplog.messages == [f"{path} has schema 4, which says too little; calibrating again"]


def test_a_table_is_used_again_for_the_same_wish_only(images: Checked, table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_json(path, table)
    assert read_table(path) == table
    assert table_at(path, GRAPH, images, method=None) == table
    assert table_at(path, GRAPH, images, method=RangeMethod.MSE) is None
    assert table_at(path, tiny_graph(), images, method=None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rescale": {"stem_conv": encode_floats(np.ones(5, np.float32))}},
        {"rounding": {"stem_conv": Rounding(encode_steps(np.ones(5, np.int8)), "")}},
        {"rounding": {"strange": Rounding(encode_steps(np.ones(5, np.int8)), "")}},
        {"means": {"stem_conv": encode_floats(np.ones(5, np.float32))}},
        {"means": {"strange": encode_floats(np.ones(5, np.float32))}},
    ],
)
def test_a_table_that_does_not_fit_its_graph_is_refused(table: CalibrationTable, wrong: dict[str, object]) -> None:
    changed = {name: {**getattr(table, name), **values} for name, values in wrong.items()}
    with pytest.raises(CalibrationError, match="does not fit the graph .* calibrate again"):
        lower_int8_cpu(GRAPH, replace(table, **changed))
