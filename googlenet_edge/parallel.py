"""Training in several processes that gives what one process gives, up to the order of additions.

Three things differ between one process and many: the gradient (averaged by `DistributedDataParallel`), the statistics
of batch normalization, and the draws of dropout. The two modules here take the last two over the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from googlenet_edge.errors import TrainingError
from googlenet_edge.reports import StoppedError

_PATIENCE = timedelta(days=1)  # the others wait while the first evaluates


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of how many training processes this is."""

    index: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.index == 0


@contextmanager
def process_group() -> Iterator[Rank]:
    """This process's rank, as ``torchrun`` tells it; alone where there is no torchrun.

    Raises:
        TrainingError: there are more processes than GPUs.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Rank()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            here = "1 GPU is" if gpus == 1 else f"{gpus} GPUs are"
            raise TrainingError(
                f"{here} here, and this is process {local + 1} of this machine; give --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Rank(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def first_tells_of_stop(rank: Rank) -> Iterator[None]:
    """All processes stop together; the first tells so by its `StoppedError`, the others end in silence with code 1."""
    try:
        yield
    except StoppedError:
        if rank.first:
            raise
        raise SystemExit(1) from None


def any_rank(flag: bool, rank: Rank, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process."""
    return mean_of_ranks([float(flag)], rank, device)[0] > 0


def mean_of_ranks(values: list[float], rank: Rank, device: torch.device) -> list[float]:
    """Each value averaged over all processes, which must all call this with as many values."""
    if rank.world == 1:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    means: list[float] = (total / rank.world).tolist()
    return means


def make_parallel(model: nn.Module, rank: Rank, generator: torch.Generator) -> None:
    """Replaces, in place, batch normalization and dropout by forms that act on the batch of all processes.

    ``generator`` draws for dropout; it must have the same state in every process.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, BatchDropout(child.p, rank, generator))
            elif isinstance(child, nn.BatchNorm2d) and rank.world > 1:
                setattr(module, name, _synchronized(child))


class BatchDropout(nn.Module):
    """Dropout of ``(N, features)`` whose mask is this process's rows of the mask for the whole batch."""

    def __init__(self, p: float, rank: Rank, generator: torch.Generator) -> None:
        super().__init__()
        self.p, self.rank, self.generator = p, rank, generator

    def forward(self, x: Tensor) -> Tensor:
        """Float ``(N, features)`` → the same shape; unchanged in eval mode."""
        if not self.training or self.p == 0:
            return x
        n, features = x.shape
        kept = torch.rand(n * self.rank.world, features, generator=self.generator) >= self.p
        mine = kept[n * self.rank.index : n * (self.rank.index + 1)].to(x.device)
        return x * mine / (1 - self.p)


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the batch of all processes, on any device (torch's own wants a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        """Float ``(N, C, H, W)`` → the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        x32 = x.to(torch.promote_types(x.dtype, torch.float32))
        count = _sum(x32.new_tensor(float(x32[:, 0].numel())))
        mean = _sum(x32.sum((0, 2, 3))) / count
        variance = _sum((x32 - mean[:, None, None]).square().sum((0, 2, 3))) / count
        self._update_running(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        out: Tensor = (x32 * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
        return out

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


def _synchronized(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    if norm.weight.is_cuda:
        converted: nn.BatchNorm2d = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return converted
    new = SynchronizedBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum).to(norm.weight)
    new.load_state_dict(norm.state_dict())
    return new
