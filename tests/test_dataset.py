"""Folders of images: their layouts, the split, and what is in them that should not be."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from googlenet_edge import dataset
from googlenet_edge.dataset import (
    ImageSet,
    check_images,
    in_threads,
    load_pixels,
    open_dataset,
    open_images,
    refuse_damaged,
    require_every_class,
    sample_beside,
    stratified_sample,
    without_damaged,
)
from googlenet_edge.errors import DamagedImageError, DataError
from googlenet_edge.preprocess import Preprocess

PREPROCESS = Preprocess(resize=8, crop=8)


def paint(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
    return path


def paint_classes(root: Path, **counts: int) -> Path:
    for shade, (name, count) in enumerate(counts.items()):
        for i in range(count):
            paint(root / name / f"{i:03}.png", 10 * shade + i)
    return root


def set_of(labels: list[int]) -> ImageSet:
    classes = tuple(f"class {i}" for i in range(max(labels) + 1))
    return ImageSet(Path("root"), classes, tuple(Path(f"{i}.png") for i in range(len(labels))), tuple(labels))


def relative(images: ImageSet) -> list[str]:
    return [path.relative_to(images.root).as_posix() for path in images.paths]


def test_dataset_reads_train_and_val(tmp_path: Path) -> None:
    paint_classes(tmp_path / "train", cat=3, dog=2)
    paint_classes(tmp_path / "val", cat=1, dog=1)
    dataset = open_dataset(tmp_path)
    assert dataset.train.class_names == dataset.val.class_names == ("cat", "dog")
    assert relative(dataset.train) == ["cat/000.png", "cat/001.png", "cat/002.png", "dog/000.png", "dog/001.png"]
    assert dataset.train.labels == (0, 0, 0, 1, 1)
    assert relative(dataset.val) == ["cat/000.png", "dog/000.png"]


def test_dataset_of_one_folder_is_split_in_every_class(tmp_path: Path) -> None:
    dataset = open_dataset(paint_classes(tmp_path, cat=20, dog=10, owl=2))
    train, val = relative(dataset.train), relative(dataset.val)
    assert not set(train) & set(val)
    assert len(train) + len(val) == 32
    assert [sum(name.startswith(kind) for name in val) for kind in ("cat", "dog", "owl")] == [4, 2, 1]


def test_split_depends_on_the_seed_and_on_names_alone(tmp_path: Path) -> None:
    first = paint_classes(tmp_path / "first", cat=20, dog=20)
    shutil.copytree(first, tmp_path / "second")
    paint_classes(tmp_path / "second", cow=5)
    kept = [name for name in relative(open_dataset(tmp_path / "second").val) if not name.startswith("cow")]
    assert relative(open_dataset(first).val) == kept
    assert relative(open_dataset(first, seed=1).val) != kept


def test_dataset_does_not_see_hidden_files_and_junk(tmp_path: Path) -> None:
    paint_classes(tmp_path, cat=2, dog=2)
    for name in (".DS_Store", "cat/.DS_Store", "cat/._000.png", "dog/Thumbs.db", "dog/desktop.ini", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "folder").mkdir()
    (tmp_path / "cat" / "folder" / "notes.csv").touch()
    (tmp_path / "cat" / "link").symlink_to(tmp_path / "cat" / "folder")
    assert relative(open_images(tmp_path)) == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]


def test_dataset_leaves_no_image_out_in_silence(tmp_path: Path) -> None:
    paint_classes(tmp_path, cat=2, dog=2)
    (tmp_path / "dog" / "gone.png").symlink_to("/nowhere/gone.png")
    images = open_images(tmp_path)
    assert relative(images)[-1] == "dog/gone.png"
    assert check_images(images, preprocess=PREPROCESS).damaged == (f"{tmp_path}/dog/gone.png is missing",)
    (tmp_path / "cat" / "2025").mkdir()
    (tmp_path / "cat" / "2025" / "1.png").touch()
    sentence = "cat/2025 has images in a folder within a class; move them up, or give it a name that begins with a dot$"
    with pytest.raises(DataError, match=sentence):
        open_images(tmp_path)
    (tmp_path / "cat").rename(tmp_path / "Train")
    with pytest.raises(DataError, match=r"Train/2025 has .* a dot; where it is a split, call that train or val$"):
        open_images(tmp_path)
    (tmp_path / "Train").rename(tmp_path / "cat")
    (tmp_path / "cat" / "2025").rename(tmp_path / ".2025")
    (tmp_path / "cat" / "2025").symlink_to(tmp_path / ".2025")
    with pytest.raises(DataError, match=sentence):
        open_images(tmp_path)


def test_dataset_names_what_is_wrong_with_its_folders(tmp_path: Path) -> None:
    paint_classes(tmp_path / "train", cat=2, dog=2)
    with pytest.raises(DataError, match=r"has train/ and no val/; add .*val/CLASS/\*, or put the classes directly in"):
        open_dataset(tmp_path)
    paint_classes(tmp_path / "val", cat=2, cow=2)
    with pytest.raises(
        DataError, match="only train/ has dog, only val/ has cow; train/ and val/ need the same classes"
    ):
        open_dataset(tmp_path)
    paint_classes(tmp_path / "flat", cat=2, dog=1)
    with pytest.raises(DataError, match=r"flat/dog has one image; at least two are needed to split train from val"):
        open_dataset(tmp_path / "flat")


def test_check_images_hashes_content_and_class_and_neither_order_nor_names(tmp_path: Path) -> None:
    images = open_images(paint_classes(tmp_path / "a", cat=3, dog=3))
    backwards = images.take(list(reversed(range(6))))
    for i, path in enumerate(sorted((tmp_path / "a").rglob("*.png"))):
        other = tmp_path / "b" / path.parent.name / f"renamed {9 - i}.png"
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, other)
    renamed = open_images(tmp_path / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    (tmp_path / "c" / "cat" / "000.png").rename(tmp_path / "c" / "dog" / "from cat.png")
    moved = open_images(tmp_path / "c")
    first, *same, other_class = (
        check_images(found, preprocess=PREPROCESS).sha256 for found in (images, backwards, renamed, moved)
    )
    assert same == [first, first]
    assert other_class != first


def test_check_images_counts_the_damaged_and_leaves_them_out(tmp_path: Path) -> None:
    whole = paint_classes(tmp_path, cat=3, dog=3)
    expected = check_images(open_images(whole), preprocess=PREPROCESS)
    cut = tmp_path / "cat" / "002b.png"
    cut.write_bytes((tmp_path / "cat" / "002.png").read_bytes()[:-30])
    (tmp_path / "dog" / "letter.txt").write_text("Dear dog")
    progress: list[tuple[int, int]] = []
    checked = check_images(
        open_images(whole), preprocess=PREPROCESS, progress=lambda done, total: progress.append((done, total))
    )
    assert [text.partition(" is ")[0] for text in checked.damaged] == [str(cut), str(tmp_path / "dog" / "letter.txt")]
    assert (checked.images, checked.sha256) == (expected.images, expected.sha256)
    assert progress == [(i, 8) for i in range(1, 9)]
    assert without_damaged(checked) == expected.images
    with pytest.raises(DamagedImageError, match=r"002b\.png is damaged .* \(and 1 more\), or leave damaged images out"):
        refuse_damaged(checked)


def test_check_images_tells_of_what_is_in_two_classes_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = paint_classes(tmp_path, cat=3, dog=3)
    shutil.copy(images / "cat" / "000.png", images / "cat" / "again.png")
    check_images(open_images(images), preprocess=PREPROCESS)
    assert caplog.messages == []
    shutil.copy(images / "cat" / "001.png", images / "dog" / "x.png")
    told = f"in two classes at once, such as {images}/cat/001.png and {images}/dog/x.png; remove the wrong one"
    check_images(open_images(images), preprocess=PREPROCESS)
    assert caplog.messages == [f"1 image is {told}"]
    shutil.copy(images / "cat" / "002.png", images / "dog" / "y.png")
    check_images(open_images(images), preprocess=PREPROCESS)
    assert caplog.messages[1:] == [f"2 images are {told}"]


def test_check_images_names_a_file_that_has_gone_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = open_images(paint_classes(Path("the images"), cat=2, dog=1))
    images.paths[1].unlink()
    assert check_images(images, preprocess=PREPROCESS).damaged == (f"{images.paths[1]} is missing",)


def test_a_class_of_which_nothing_is_left_is_refused_where_every_class_counts(tmp_path: Path) -> None:
    paint_classes(tmp_path, cat=2)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "0.png").touch()
    left = without_damaged(check_images(open_images(tmp_path), preprocess=PREPROCESS))
    assert len(left) == 2
    with pytest.raises(DataError, match=r"dog has only damaged images; replace them or remove the folder"):
        require_every_class(left)


def test_without_damaged_refuses_where_nothing_is_left(tmp_path: Path) -> None:
    paint_classes(tmp_path, cat=2, dog=1)
    for path in tmp_path.glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"has only damaged images; replace them"):
        without_damaged(check_images(open_images(tmp_path), preprocess=PREPROCESS))


def test_sample_of_fewer_images_than_classes_is_of_classes_by_chance(tmp_path: Path) -> None:
    images = open_images(paint_classes(tmp_path, **{f"c{i}": 2 for i in range(10)}))
    taken = [set(stratified_sample(images, 5, seed=seed).labels) for seed in range(8)]
    assert all(len(each) == 5 for each in taken)
    assert set().union(*taken) == set(range(10))


def test_in_threads_gives_up_what_waits_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, shutting_down = list[int](), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            shutting_down.set()
            super().shutdown(wait=wait)

    def first_fails(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError
        shutting_down.wait()

    monkeypatch.setattr(dataset, "ThreadPoolExecutor", Pool)
    with pytest.raises(ValueError):
        list(in_threads(first_fails, range(100), workers=1))
    assert set(begun) <= {0, 1}


def test_load_pixels_keeps_the_order(tmp_path: Path) -> None:
    images = open_images(paint_classes(tmp_path, cat=40, dog=2))
    shades = [int(pixels[0, 0, 0]) for pixels in load_pixels(images, PREPROCESS)]
    assert shades == [*range(40), 10, 11]


def test_checked_images_are_decoded_once_where_their_pixels_fit(tmp_path: Path) -> None:
    whole = open_images(paint_classes(tmp_path, cat=4, dog=3))
    expected = list(load_pixels(whole, PREPROCESS))
    size = expected[0].nbytes
    some, none = (check_images(whole, preprocess=PREPROCESS, kept_bytes=count) for count in (5 * size, size - 1))
    assert (set(some.kept), none.kept) == (set(whole.paths[:5]), {})
    for path in whole.paths[:5]:
        path.unlink()
    backwards = some.images.take([6, 5, 4, 3, 2, 1, 0])
    assert np.array_equal(list(some.pixels(backwards, PREPROCESS)), expected[::-1])
    with pytest.raises(DamagedImageError, match="is missing"):  # what was kept is not for this
        list(some.pixels(backwards, replace(PREPROCESS, crop=PREPROCESS.crop // 2)))


def test_in_threads_reads_only_a_little_ahead() -> None:
    started: list[int] = []
    results = in_threads(lambda i: started.append(i) or i, tuple(range(1000)))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(started) < 30


def test_stratified_sample_keeps_the_share_of_every_class() -> None:
    images = set_of([0] * 100 + [1] * 50 + [2] * 10)
    sample = stratified_sample(images, 16, seed=0)
    assert [sample.labels.count(label) for label in range(3)] == [10, 5, 1]
    assert len(set(sample.paths)) == 16
    assert stratified_sample(images, 16, seed=0) == sample
    assert stratified_sample(images, 16, seed=1) != sample
    assert stratified_sample(images, 1000, seed=0) == images


def test_sample_beside_takes_no_image_twice_where_there_are_enough() -> None:
    images = set_of([0, 1] * 20)
    used = stratified_sample(images, 30, seed=0)
    assert not set(sample_beside(images, used, 10, seed=0).paths) & set(used.paths)
    assert sample_beside(images, used, 11, seed=0) == stratified_sample(images, 11, seed=0)
