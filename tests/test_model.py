"""The network is GoogLeNet, and torchvision's GoogLeNet to the last tensor name."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import imagenet_normalization, made_checkpoint, made_weights

from googlenet_edge.checkpoint import build_model
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig, Inception, InceptionWidths
from googlenet_edge.preprocess import Preprocess

FIXTURES = Path(__file__).with_name(
    "fixtures"
)  # outputs of torchvision's googlenet for the weights that `made_weights` makes
TOLERANCE = 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FIXTURES / "torchvision_googlenet.json").read_text())
    return loaded


def test_model_has_the_state_dict_of_torchvision(reference: dict[str, Any]) -> None:
    ours = {name: list(t.shape) for name, t in GoogLeNet(GoogLeNetConfig()).state_dict().items()}
    assert ours == reference["state_dict_1000"]
    assert list(ours) == list(reference["state_dict_1000"])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_model_gives_the_logits_of_torchvision(reference: dict[str, Any], case: int) -> None:
    """Main and auxiliary. ``transform_input`` is no option of ours: the preprocessing has done its work already."""
    about = reference["cases"][case]
    config = GoogLeNetConfig(about["num_classes"])
    model = GoogLeNet(config).eval()
    model.load_state_dict(made_weights(config, seed=about["seed"]))
    side = about["image_size"]
    images = np.random.default_rng([about["seed"], 7]).standard_normal((2, 3, side, side)).astype("float32")
    if about["transform_input"]:
        images = our_input_for_imagenet_input(images)
    with torch.inference_mode():
        outputs = model.forward_with_aux(torch.from_numpy(images))
    expected = np.load(FIXTURES / "torchvision_googlenet.npz")
    for name, found in zip(("logits", "aux1", "aux2"), outputs, strict=True):
        wanted = expected[f"case{case}_{name}"]
        assert np.abs(found.numpy() - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


def our_input_for_imagenet_input(images: np.ndarray) -> np.ndarray:
    """What our preprocessing gives for the pixels whose ImageNet normalization is ``images``."""
    ours, imagenet = Preprocess(), imagenet_normalization(Preprocess())

    def column(values: tuple[float, float, float]) -> np.ndarray:
        return np.array(values)[:, None, None]

    pixels = images * column(imagenet.std) + column(imagenet.mean)
    return ((pixels - column(ours.mean)) / column(ours.std)).astype(np.float32)


def test_model_forward_is_the_main_head_of_forward_with_aux() -> None:
    model = build_model(made_checkpoint(classes=3))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), model.forward_with_aux(images).logits)


@pytest.mark.parametrize("side", [32, 33, 64, 100])
def test_model_takes_any_side_from_32(side: int) -> None:
    model = build_model(made_checkpoint(classes=3))
    with torch.inference_mode():
        assert [tuple(o.shape) for o in model.forward_with_aux(torch.zeros(2, 3, side, side))] == [(2, 3)] * 3


def test_model_has_the_shapes_of_the_paper() -> None:
    """Output sizes and depths of table 1 of arXiv 1409.4842."""
    table = {
        "conv1": (64, 112), "maxpool1": (64, 56), "conv3": (192, 56), "maxpool2": (192, 28),
        "inception3a": (256, 28), "inception3b": (480, 28), "maxpool3": (480, 14),
        "inception4a": (512, 14), "inception4b": (512, 14), "inception4c": (512, 14), "inception4d": (528, 14),
        "inception4e": (832, 14), "maxpool4": (832, 7), "inception5a": (832, 7), "inception5b": (1024, 7),
        "avgpool": (1024, 1),
    }  # fmt: skip
    model = GoogLeNet(GoogLeNetConfig(2)).eval()
    seen: dict[str, tuple[int, int]] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        def remember(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
            seen[name] = (output.shape[1], output.shape[-1])

        module.register_forward_hook(remember)

    for name, module in model.named_children():
        watch(name, module)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 224, 224))
    assert {name: seen[name] for name in table} == table


def test_model_true_5x5_sees_two_pixels_far_and_torchvisions_3x3_one() -> None:
    def reach(*, true_5x5: bool) -> int:
        torch.manual_seed(0)
        branch = Inception(8, InceptionWidths(4, (4, 4), (4, 4), 4), true_5x5=true_5x5).eval().branch3
        images = torch.zeros(1, 8, 9, 9, requires_grad=True)
        branch[1].conv(branch[0].conv(images))[0, :, 4, 4].sum().backward()
        assert images.grad is not None
        touched = images.grad.abs().sum((0, 1)).nonzero()
        return int((touched - 4).abs().max())

    assert (reach(true_5x5=True), reach(true_5x5=False)) == (2, 1)


def test_model_dropout_rates_reach_main_and_auxiliary_heads() -> None:
    model = GoogLeNet(GoogLeNetConfig(2, dropout=0.1, aux_dropout=0.6))
    assert [model.dropout.p, model.aux1.dropout.p, model.aux2.dropout.p] == [0.1, 0.6, 0.6]


def test_model_modules_are_registered_in_the_order_of_the_forward_pass() -> None:
    """The export walks the children in their order."""
    model = GoogLeNet(GoogLeNetConfig(2)).eval()
    called: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    children = [name for name, _ in model.named_children()]
    assert all(children.index(a) < children.index(b) for a, b in pairwise(called))
    assert set(children) - set(called) == {"aux1", "aux2"}
