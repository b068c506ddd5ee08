"""Kernels that are moved alike in every direction, and kept as long as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from googlenet_edge.descent import Muon, orthogonal


def random_matrix(rows: int, columns: int, *, decades: float = 0.0) -> Tensor:
    """With singular values from 1 down to 10^-decades."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    return u @ torch.diag(torch.logspace(0, -decades, min(rows, columns))) @ v


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonal_matrix_has_all_directions_of_a_matrix_alike(shape: tuple[int, int], scale: float) -> None:
    matrix = random_matrix(*shape, decades=1.3)
    found = orthogonal(matrix * scale)
    u, values, v = torch.linalg.svd(found, full_matrices=False)
    assert 0.67 < float(values.min()) <= float(values.max()) < 1.22
    towards = matrix.flatten() @ (u @ v).flatten() / torch.linalg.svdvals(matrix).sum()
    assert float(towards) == pytest.approx(1, abs=1e-3), "the nearest of all, so none has more of it"


def test_orthogonal_matrix_has_what_is_hardly_there_41_times() -> None:
    values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([1.0, 0.005, 0.001]))))
    assert values.tolist()[1:] == pytest.approx([0.2, 0.041], rel=0.03)


def test_orthogonal_matrix_of_nothing_is_nothing() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


def test_kernel_learns_faint_directions_as_soon_as_strong_ones() -> None:
    kernel = torch.zeros(2, 1, 1, 2).copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2)).requires_grad_()
    before = kernel.detach().clone()
    kernel.grad = torch.tensor([[0.0, 30.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    with torch.no_grad():
        Muon([kernel], dtype=torch.float32).move(0.5)  # a fifth of it
    strong, faint = (before - kernel.detach()).flatten()[[1, 2]].tolist()
    assert strong == pytest.approx(0.1, rel=0.35)
    assert faint == pytest.approx(strong, rel=0.5)


def test_kernel_goes_on_where_it_went_before() -> None:
    """Two steps by Nesterov's formulas, with a momentum of 0.6."""
    random = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 2, 2, generator=random)
    expected, momentum, rule = kernel.clone(), torch.zeros(4, 12), Muon([kernel], dtype=torch.float32)
    for _ in range(2):
        kernel.grad = torch.randn(kernel.shape, generator=random)
        rule.move(0.5)
        gradient = kernel.grad.flatten(1)
        momentum = 0.6 * momentum + gradient
        direction = orthogonal(gradient + 0.6 * momentum).view_as(kernel)
        expected = expected * 2 / expected.norm() - 0.2 * 0.5 * direction
    torch.testing.assert_close(kernel, expected)


def test_kernel_keeps_the_length_of_one_a_channel() -> None:
    kernel = (torch.randn(9, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 100).requires_grad_()
    kernel.grad = torch.zeros_like(kernel)
    with torch.no_grad():
        Muon([kernel], dtype=torch.float32).move(0.5)
    assert float(kernel.detach().norm()) == pytest.approx(3)
