"""Convolutions that are trained as matrix products have the outputs and gradients of PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import googlenet_edge.convolution as module
from googlenet_edge.convolution import ByPatches, Pointwise, SameSize, convolution

MEMORY = pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])


def trained(layer: torch.nn.Conv2d, images: Tensor, *, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of input and weight."""
    x = images.clone().requires_grad_()
    output = layer.train(training)(x)
    return output, *torch.autograd.grad((output.float() ** 3).sum(), (x, layer.weight))


@MEMORY
def test_convolution_of_1x1_is_a_matrix_product_in_training(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = convolution(24, 40, 1, stride=1, padding=0)
    assert isinstance(layer, Pointwise)
    images = torch.randn(3, 24, 5, 7).to(memory_format=memory)
    found, wanted = (trained(layer, images, training=training) for training in (True, False))
    assert ["Convolution" in str(outputs[0].grad_fn) for outputs in (found, wanted)] == [False, True]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@MEMORY
@pytest.mark.parametrize("kernel", [3, 5])
def test_convolution_by_patches_has_the_gradients_of_a_convolution(memory: torch.memory_format, kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64).to(memory_format=memory).requires_grad_()
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64).to(memory_format=memory).requires_grad_()
    assert torch.autograd.gradcheck(ByPatches.apply, (x, weight))


@pytest.mark.parametrize(
    ("tiles", "bfloat16", "side", "by_patches"),
    [(True, True, 8, True), (True, True, 9, False), (True, False, 8, False), (False, True, 8, False)],
)
def test_convolution_uses_patches_where_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, bfloat16: bool, side: int, by_patches: bool
) -> None:
    """With matrix tiles, in bfloat16, on few pixels; elsewhere it stays as it was."""
    torch.manual_seed(0)
    monkeypatch.setattr(module, "_has_tiles", lambda: tiles)
    layer = convolution(16, 24, 3, stride=1, padding=1)
    assert isinstance(layer, SameSize)
    images = torch.randn(4, 16, side, side)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        found, wanted = (trained(layer, images, training=training) for training in (True, False))
    assert ["ByPatches" in str(outputs[0].grad_fn) for outputs in (found, wanted)] == [by_patches, False]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.detach().abs().max()))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(7, 2, 3), (3, 2, 1), (3, 1, 0), (1, 2, 0)])
def test_convolution_that_changes_the_size_is_pytorchs(kernel: int, stride: int, padding: int) -> None:
    assert type(convolution(3, 8, kernel, stride=stride, padding=padding)) is torch.nn.Conv2d
