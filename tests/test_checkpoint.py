"""Checkpoints come back as they were written, and what is no GoogLeNet is refused by name."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import NARROW, made_checkpoint
from safetensors.torch import save_file

from googlenet_edge.augment import Augmentation
from googlenet_edge.checkpoint import (
    METADATA_KEY,
    Checkpoint,
    TrainingRecord,
    build_model,
    read_checkpoint,
    read_pth,
    read_safetensors,
    write_checkpoint,
)
from googlenet_edge.errors import CheckpointError
from googlenet_edge.files import sha256_file
from googlenet_edge.preprocess import Preprocess


def test_checkpoint_survives_the_disk(tmp_path: Path) -> None:
    augmentation = Augmentation(0.01, flip=False)  # less than the command line takes
    record = TrainingRecord(3, 100, "a" * 64, "b" * 64, 0.5, 0.9, 12.5, augmentation=augmentation)
    checkpoint = made_checkpoint(true_5x5=True)
    checkpoint = replace(checkpoint, info=replace(checkpoint.info, training=record))
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint)
    found = read_checkpoint(path)
    assert found.info == checkpoint.info
    assert found.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in checkpoint.weights.items())
    assert found.sha256 == sha256_file(path)


@pytest.mark.parametrize(
    "changed", [Augmentation(0.0), Augmentation(2.0), Augmentation(colour=-1), Augmentation(erase=7)]
)
def test_checkpoint_whose_images_cannot_have_been_changed_so_is_refused(tmp_path: Path, changed: Augmentation) -> None:
    record = TrainingRecord(3, 100, "a" * 64, "b" * 64, 0.5, 0.9, 12.5, augmentation=changed)
    made = made_checkpoint()
    write_checkpoint(tmp_path / "c.safetensors", replace(made, info=replace(made.info, training=record)))
    with pytest.raises(CheckpointError, match=r"cannot be read: Expected `float` .* at `\$.training.augmentation\."):
        read_checkpoint(tmp_path / "c.safetensors")


def change(checkpoint: Checkpoint, **tensors: torch.Tensor) -> Checkpoint:
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return replace(checkpoint, weights={**checkpoint.weights, **named})


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"fc__weight": torch.zeros(4, 7)}, r"fc.weight has the shape \(4, 7\) where \(4, 1024\) is expected"),
        ({"layer1__0__conv1__weight": torch.zeros(1)}, "layer1.0.conv1.weight is not part of GoogLeNet"),
        ({"fc__bias": torch.full((4,), torch.nan)}, "has NaN or infinity in fc.bias; its training failed"),
        ({"conv1__bn__running_var": torch.full((64,), torch.inf)}, "has NaN or infinity in conv1.bn.running_var"),
        ({"conv1__bn__running_var": torch.full((64,), -1.0)}, "has a negative variance in conv1.bn.running_var; it is"),
        (
            {"fc__bias": torch.zeros(4, dtype=torch.float8_e4m3fn)},
            "has fc.bias as torch.float8_e4m3fn, .*, not as a plain",
        ),
        ({"fc__bias": torch.zeros(4, dtype=torch.complex64)}, "has fc.bias as torch.complex64, .*, not as a plain t"),
        ({"fc__bias": torch.zeros(4, dtype=torch.int8)}, "has fc.bias as torch.int8, .*, not as a plain torch"),
    ],
)
def test_checkpoint_refuses_other_networks(tmp_path: Path, tensors: dict[str, torch.Tensor], sentence: str) -> None:
    write_checkpoint(tmp_path / "c.safetensors", change(made_checkpoint(), **tensors))
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(tmp_path / "c.safetensors")


def test_checkpoint_refuses_a_missing_tensor(tmp_path: Path) -> None:
    checkpoint = made_checkpoint()
    del checkpoint.weights["inception4b.branch2.1.conv.weight"]
    write_checkpoint(tmp_path / "c.safetensors", checkpoint)
    with pytest.raises(CheckpointError, match="another architecture: inception4b.branch2.1.conv.weight is missing"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_checkpoint_refuses_a_newer_schema(tmp_path: Path) -> None:
    checkpoint = made_checkpoint()
    write_checkpoint(tmp_path / "c.safetensors", replace(checkpoint, info=replace(checkpoint.info, schema=99)))
    with pytest.raises(CheckpointError, match="has schema 99, this version reads up to 1; upgrade googlenet-edge"):
        read_checkpoint(tmp_path / "c.safetensors")


# Widths


def with_widths(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with other widths in what it says about itself; its tensors stay."""
    metadata, tensors = read_safetensors(path)
    info = json.loads(metadata[METADATA_KEY])
    change(info)
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(info)})
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("narrow") / "c.safetensors"
    write_checkpoint(path, made_checkpoint(widths=NARROW))
    return path


def test_checkpoint_keeps_its_widths(narrow: Path) -> None:
    found = read_checkpoint(narrow)
    assert found.info.widths == NARROW
    assert build_model(found).inception5b.branch3[1].conv.weight.shape == (3, 2, 3, 3)


def test_checkpoint_without_widths_has_those_of_the_paper(tmp_path: Path) -> None:
    """As all were written before networks could be slimmed."""
    write_checkpoint(tmp_path / "c.safetensors", made_checkpoint())
    old = with_widths(tmp_path / "c.safetensors", lambda info: info.pop("widths"))
    assert read_checkpoint(old).info == made_checkpoint().info


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"conv1": 0}, r"the metadata of .* cannot be read: Expected `int` >= 1 - at `\$\.widths\.conv1`$"),
        ({"conv3": -8}, r"Expected `int` >= 1 - at `\$\.widths\.conv3`$"),
        ({"conv2": 10**9}, r"Expected `int` <= 4096 - at `\$\.widths\.conv2`$"),
        ({"conv2": "4"}, r"Expected `int`, got `str` - at `\$\.widths\.conv2`$"),
        ({"inception4a": {"c1": 2}}, r"missing required field `c3` - at `\$\.widths\.inception4a`$"),
        ({"inception4a": {"c1": 2, "c3": [3], "c5": [2, 3], "pool": 2}}, r"Expected `array` of length 2 - at .*\.c3`$"),
        (
            {"conv1": 4},
            r"of another architecture: conv1\.conv\.weight has the shape \(3, 3, 7, 7\) where \(4, 3, 7, 7\)",
        ),
        (
            {"inception5b": {"c1": 4096, "c3": [4096, 4096], "c5": [4096, 4096], "pool": 4096}},
            r"inception5b\.branch1\.",
        ),
    ],
)
def test_checkpoint_refuses_widths_that_are_not_its_own(
    narrow: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    """Before any memory is taken for them."""
    copy = tmp_path / "c.safetensors"
    copy.write_bytes(narrow.read_bytes())
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(with_widths(copy, lambda info: info["widths"].update(change)))


def test_checkpoint_refuses_somebody_elses_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="was not written by gnet-edge train"):
        read_checkpoint(tmp_path / "c.safetensors")


class _Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pth_runs_no_code(tmp_path: Path) -> None:
    evil, trace = tmp_path / "evil.pth", tmp_path / "trace"
    evil.write_bytes(pickle.dumps(_Evil(trace)))
    with pytest.raises(CheckpointError, match="is not a state dict that can be read safely"):
        read_pth(evil)
    assert not trace.exists()


def test_pth_that_unpacks_to_more_than_weights_can_have_is_not_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("data", "w") as file,
    ):
        for _ in range(65):
            file.write(bytes(16 << 20))
    with pytest.raises(
        CheckpointError, match=r"bomb\.pth holds 1090519040 bytes where at most 1073741824 are expected"
    ):
        read_pth(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"preprocess": Preprocess(8, 8)}, "is for images of 8 pixels, 32 or more are needed; use another"),
        ({"class_names": ()}, r"cannot be read: Expected `array` of length >= 1 - at `\$.class_names`"),
    ],
)
def test_checkpoint_that_no_network_can_have_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    made = made_checkpoint()
    write_checkpoint(tmp_path / "c.safetensors", replace(made, info=replace(made.info, **change)))
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(tmp_path / "c.safetensors")


def test_pth_refuses_what_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds something else than a state dict of tensors"):
        read_pth(tmp_path / "list.pth")
