"""Convolutions as they are trained on a processor: as matrix products where those are faster.

In evaluation, and so for every engine, they are PyTorch's; names and shapes of weights always are.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from googlenet_edge.processor import read_processor

FEW_POSITIONS = 64
"""Height × width up to which copying patches pays (``docs/architecture.md``)."""


def convolution(cin: int, cout: int, kernel: int, *, stride: int, padding: int) -> nn.Conv2d:
    """A convolution without bias, trained in the way that suits its shape."""
    match kernel, stride, padding:
        case 1, 1, 0:
            kind: type[nn.Conv2d] = Pointwise
        case _, 1, _ if kernel == 2 * padding + 1:
            kind = SameSize
        case _:
            kind = nn.Conv2d
    return kind(cin, cout, kernel, stride=stride, padding=padding, bias=False)


class Pointwise(nn.Conv2d):
    """A 1×1 convolution, trained as the matrix product over channels that it is.

    In channels-last memory that is only another view of ``x`` ``(N, cin, H, W)`` and of the weight, and its gradients
    take less time: on a processor with AMX, those of the weight half of it to a tenth.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        if not self.training:
            return super().forward(x)
        return F.linear(x.permute(0, 2, 3, 1), self.weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


class SameSize(nn.Conv2d):
    """A convolution whose output is as large as its input ``x`` ``(N, cin, H, W)``.

    In bfloat16 on a processor with AMX, where there are few positions, its weight has its gradient from `ByPatches`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        in_tiles = self.training and torch.is_autocast_enabled("cpu") and _has_tiles()
        if not in_tiles or x.shape[2] * x.shape[3] > FEW_POSITIONS:
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        out: Tensor = ByPatches.apply(x.to(dtype), self.weight.to(dtype))  # type: ignore[no-untyped-call]
        return out


class ByPatches(torch.autograd.Function):
    """``x`` ``(N, cin, H, W)`` and a weight ``(cout, cin, k, k)`` → ``(N, cout, H, W)``.

    The weight's gradient is one matrix product, with the k × k patches of ``x`` that are copied out for it (im2col).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution."""
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of ``x`` and of the weight, from that of the output."""
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        cout, cin, k, _ = weight.shape
        of_x = conv2d_input(x.shape, weight, gradient, padding=k // 2)  # type: ignore[no-untyped-call]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[k // 2] * 4))
        patches = padded.unfold(1, k, 1).unfold(2, k, 1).permute(0, 1, 2, 4, 5, 3).reshape(-1, k * k * cin)
        product = gradient.permute(0, 2, 3, 1).reshape(-1, cout).t() @ patches
        return of_x, product.view(cout, k, k, cin).permute(0, 3, 1, 2)


@functools.cache
def _has_tiles() -> bool:
    return read_processor().has_bfloat16_tiles
