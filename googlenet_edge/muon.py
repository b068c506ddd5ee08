"""Muon: momentum whose step moves a kernel alike in every direction, not most where its gradient happens to be large.

A kernel is a matrix from patches to channels. Its gradient is nearly of a low rank, so plain descent learns a few
directions first and the others late; the nearest orthogonal matrix has them all. A training then needs far fewer
epochs (``benchmarks/README.md``), and a few matrix products a step, whatever the batch.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, in the form that they trained
CIFAR-10 with: kernels have a fixed length, since a normalization follows them, and no weight decay.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # from there: steepest at 0, so that few iterations are enough
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For kernels ``(cout, cin, height, width)`` of convolutions that a normalization follows."""

    def __init__(self, kernels: Iterable[Tensor], *, momentum: float, rate: float, dtype: torch.dtype) -> None:
        """A step turns a kernel by at most about ``lr`` of its length. ``dtype`` is that of the products."""
        super().__init__([{"params": list(kernels), "rate": rate}], {"lr": 0.0, "momentum": momentum})
        self._dtype = dtype
        for kernel in self.param_groups[0]["params"]:
            self.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Moves every kernel."""
        for group in self.param_groups:
            for kernel in group["params"]:
                buffer = self.state[kernel]["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(kernel.grad)
                ahead = kernel.grad.add(buffer, alpha=group["momentum"])
                direction = orthogonal(ahead.flatten(1).to(self._dtype)).to(kernel.dtype).view(kernel.shape)
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm()).sub_(direction, alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all 1: they end between 0.7 and 1.2.

    ``matrix``: float ``(rows, columns)``, of any rank; zeros stay zeros.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.t().contiguous()
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.t()
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.t()
