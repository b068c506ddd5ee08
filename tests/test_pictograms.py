"""The generated data set: the same everywhere, complete or not there, and never in the place of something else."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from googlenet_edge.errors import OutputError
from googlenet_edge.images import decode_rgb
from googlenet_edge.pictograms import CLASS_NAMES, SIGNS, render, write_pictograms


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drawn_plainly(name: str) -> np.ndarray:
    """A sign as it is defined, on grey: uint8 (64, 64, 3)."""
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    for part in SIGNS[name].plate + SIGNS[name].glyph:
        ImageDraw.Draw(image).polygon(((part.points + 1) * 32).ravel().tolist(), fill=part.paint.value)
    return np.asarray(image)


def test_pictograms_same_arguments_give_the_same_pixels() -> None:
    assert render("stop", seed=5, size=64).tobytes() == render("stop", seed=5, size=64).tobytes()


def test_pictograms_differ_by_seed_and_by_class() -> None:
    images = {render(name, seed=seed, size=48).tobytes() for name in CLASS_NAMES for seed in range(3)}
    assert len(images) == len(CLASS_NAMES) * 3


@pytest.mark.parametrize("size", [16, 96, 128])
def test_pictograms_are_rgb_of_the_asked_size(size: int) -> None:
    image = render("flammable", seed=0, size=size)
    assert (image.mode, image.size) == ("RGB", (size, size))


def test_pictograms_signs_differ_visibly_from_each_other() -> None:
    plain = {name: drawn_plainly(name) for name in CLASS_NAMES}
    for one, other in combinations(CLASS_NAMES, 2):
        different = (plain[one] != plain[other]).any(axis=2).mean()
        assert different > 0.02, f"{one} and {other} differ in {different:.1%} of their pixels"


def test_pictograms_signs_stay_within_their_square() -> None:
    corners = np.concatenate([part.points for sign in SIGNS.values() for part in sign.plate + sign.glyph])
    assert np.abs(corners).max() <= 1


def test_pictograms_turn_left_is_turn_right_in_a_mirror() -> None:
    different = (drawn_plainly("turn_left") != drawn_plainly("turn_right")[:, ::-1]).any(axis=2).mean()
    assert different < 0.02  # edges round to other pixels
    assert (drawn_plainly("turn_left") != drawn_plainly("turn_right")).any(axis=2).mean() > 0.05


def test_pictograms_show_their_class_but_not_to_a_linear_classifier() -> None:
    """Least squares on 32 × 32 pixels is far better than chance (8 %) and far from what a network reaches."""
    train, test = range(60), range(60, 80)
    pixels, labels = flat_images(train)
    ridge = 1000 * np.eye(len(labels))  # in its dual form, as there are fewer images than pixels
    weights = pixels.T @ np.linalg.solve(pixels @ pixels.T + ridge, np.eye(len(CLASS_NAMES))[labels])
    pixels, labels = flat_images(test)
    accuracy = ((pixels @ weights).argmax(axis=1) == labels).mean()
    assert 0.2 < accuracy < 0.7


def flat_images(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    images = [np.asarray(render(name, seed=seed, size=32)) for name in CLASS_NAMES for seed in seeds]
    return np.stack(images).reshape(len(images), -1) / 127.5 - 1, np.repeat(np.arange(len(CLASS_NAMES)), len(seeds))


def test_pictograms_folder_holds_what_was_asked_for(tmp_path: Path) -> None:
    folder, calls = tmp_path / "data", []
    write_pictograms(
        folder, train_per_class=3, val_per_class=2, size=48, progress=lambda done, total: calls.append((done, total))
    )
    assert {path.name for path in folder.iterdir()} == {"train", "val", "pictograms.json"}
    for split, count in (("train", 3), ("val", 2)):
        assert sorted(path.name for path in (folder / split).iterdir()) == list(CLASS_NAMES)
        for name in CLASS_NAMES:
            files = sorted(path.name for path in (folder / split / name).iterdir())
            assert files == [f"{index:05}.jpg" for index in range(count)]
    assert calls == [(done, 60) for done in range(1, 61)]


def test_pictograms_files_are_photos_of_several_sizes(tmp_path: Path) -> None:
    write_pictograms(tmp_path / "data", train_per_class=4, val_per_class=1, size=48)
    sides = [decode_rgb(path, short_side=48).width for path in (tmp_path / "data").rglob("*.jpg")]
    assert len(set(sides)) > 10
    assert min(sides) >= 40
    assert max(sides) <= 64


def test_pictograms_train_and_val_share_no_image(tmp_path: Path) -> None:
    write_pictograms(tmp_path / "data", train_per_class=6, val_per_class=6, size=32)
    files = contents(tmp_path / "data")
    assert len(set(files.values())) == len(files)


def test_pictograms_val_does_not_depend_on_the_number_of_training_images(tmp_path: Path) -> None:
    write_pictograms(tmp_path / "few", train_per_class=1, val_per_class=2, size=32)
    write_pictograms(tmp_path / "more", train_per_class=4, val_per_class=2, size=32)
    assert contents(tmp_path / "few" / "val") == contents(tmp_path / "more" / "val")
    assert contents(tmp_path / "few" / "train").items() <= contents(tmp_path / "more" / "train").items()


def test_pictograms_seed_gives_another_data_set(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_pictograms(tmp_path / str(seed), train_per_class=1, val_per_class=1, size=32, seed=seed)
    zero, one = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert not set(zero.values()) & set(one.values())


def test_pictograms_same_request_again_draws_nothing(tmp_path: Path) -> None:
    folder, calls = tmp_path / "data", []
    write_pictograms(folder, train_per_class=1, val_per_class=1, size=32)
    inode = folder.stat().st_ino
    write_pictograms(folder, train_per_class=1, val_per_class=1, size=32, progress=lambda *call: calls.append(call))
    assert (folder.stat().st_ino, calls) == (inode, [])


def test_pictograms_other_request_replaces_the_older_data_set(tmp_path: Path) -> None:
    write_pictograms(tmp_path / "data", train_per_class=2, val_per_class=1, size=32)
    write_pictograms(tmp_path / "data", train_per_class=1, val_per_class=1, size=32)
    assert len(contents(tmp_path / "data")) == 2 * len(CLASS_NAMES) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_pictograms_never_replace_somebody_elses_folder(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(OutputError) as caught:
        write_pictograms(tmp_path, train_per_class=1, val_per_class=1, size=32)
    assert str(caught.value) == f"{tmp_path} is not empty and holds no generated data set; give another folder"
    assert contents(tmp_path) == {"holiday.jpg": b"dear"}


def test_pictograms_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pictograms(tmp_path / "data", train_per_class=1, val_per_class=1, size=32, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
