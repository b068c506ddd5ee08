"""Stochastic gradient descent as every training here does it: Nesterov momentum, a warm-up, then half a cosine.

In mixed precision where the processor is made for it. Where weights are random at the start, `Muon` moves kernels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from googlenet_edge.augment import Augmentation
from googlenet_edge.errors import TrainingError
from googlenet_edge.processor import read_processor
from googlenet_edge.statistics import Count

_WARMUP = 0.05  # a share of all steps
_MOMENTUM = 0.9  # Nesterov's
_KERNEL_MOMENTUM = 0.6
_KERNEL_RATE = 0.2
"""How much of the learning rate a kernel moves by, as a share of its length, where training starts at random."""

_BIAS_RATE = 8.0
"""How many times as fast the biases of normalizations learn where training starts at random.

Source: Page, "How to Train Your ResNet 8", and Jordan, arXiv 2404.00498, section 3.4; both take 64."""

# Of a quintic that is steepest at 0, so that few iterations are enough; from Muon's source.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


@dataclass(frozen=True, slots=True)
class DescentConfig:
    """What a person may set of any training. ``batch_size`` is that of all processes together.

    ``learning_rate`` is the peak. ``weight_decay`` is that of kernels and matrices; biases, normalization and what
    `Muon` moves have none. ``mixed_precision`` acts where the processor is made for it; a network whose own roundings
    are the point needs it off.
    """

    epochs: Count = 30
    batch_size: Count = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    mixed_precision: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise TrainingError(f"the learning rate is {self.learning_rate}; it must be above zero")


class Descent:
    """The optimizer of one network."""

    def __init__(
        self,
        model: nn.Module,
        config: DescentConfig,
        *,
        steps: int,
        device: torch.device,
        mend: str,
        at_random: bool = False,
    ) -> None:
        """``steps`` are those of all epochs; ``mend`` says what to do about a loss that is not finite.

        ``at_random``: the weights have learned nothing yet, so kernels are moved by `Muon`, and biases learn faster.
        """
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32; what may be coarser is in 16 bits
        self._model, self._config, self._steps, self._mend = model, config, steps, mend
        self._optimizers = _optimizers(model, config, at_random=at_random, device=device)
        self._scaler = gradient_scaler(device, wanted=config.mixed_precision)

    def step(self, number: int, loss: Tensor) -> float:
        """Goes down the gradient of ``loss`` and returns its value; ``number`` counts from 0 over all epochs.

        Raises:
            TrainingError: the loss is not finite; the weights cannot be used any more.
        """
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * self.rate(number)
            optimizer.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {number + 1}; {self._mend}")
        return value

    def rate(self, number: int) -> float:
        """The learning rate of that step."""
        return learning_rate_at(number, steps=self._steps, config=self._config)

    def require_finite_weights(self) -> None:
        """Raises `TrainingError` where the last step left weights that no loss has shown yet."""
        if not all(torch.isfinite(parameter).all() for parameter in self._model.parameters()):
            raise TrainingError(f"the weights are not finite after the last step; {self._mend}")

    def momentum(self) -> dict[str, Tensor]:
        """The optimizers' buffers by parameter name."""
        state = {parameter: kept for optimizer in self._optimizers for parameter, kept in optimizer.state.items()}
        return {n: state[p]["momentum_buffer"] for n, p in self._model.named_parameters() if p in state}

    def scaling(self) -> dict[str, int | float]:
        """The state of loss scaling; empty where there is none."""
        state: dict[str, int | float] = self._scaler.state_dict()
        return state

    def load_scaling(self, state: dict[str, int | float]) -> None:
        """Goes on from what `scaling` gave."""
        if state:
            self._scaler.load_state_dict(state)

    def load_momentum(self, momentum: dict[str, Tensor]) -> None:
        """In place: the fused optimizer takes it for granted that a buffer is in the memory format of its parameter."""
        for name, buffer in self.momentum().items():
            if name in momentum:
                buffer.copy_(momentum[name])


def learning_rate_at(step: int, *, steps: int, config: DescentConfig) -> float:
    """Linear warm-up, then half a cosine down to zero (arXiv 1608.03983 without restarts)."""
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_size_for(wanted: int, images: int, *, processes: int = 1) -> int:
    """The batch of all processes: as wanted, but not more than there are images, and divisible by the processes.

    Raises:
        TrainingError: that leaves a process fewer than two images.
    """
    size = min(wanted, images) // processes * processes
    if size < 2 * processes:
        raise TrainingError(f"{images} images in batches of {wanted} are too few for {processes} processes; use fewer")
    return size


def _optimizers(model: nn.Module, config: DescentConfig, *, at_random: bool, device: torch.device) -> list[Optimizer]:
    """Gradient descent, and where training starts at random `Muon` for the kernels."""
    normalizations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)] if at_random else []
    biases = [m.bias for m in normalizations] if at_random else []
    elsewhere = {*kernels, *biases}
    others = [p for p in model.parameters() if p not in elsewhere]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay, "rate": 1.0},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "rate": 1.0},
        {"params": biases, "weight_decay": 0.0, "rate": _BIAS_RATE},
    ]
    plain = torch.optim.SGD(groups, lr=config.learning_rate, momentum=_MOMENTUM, nesterov=True, fused=True)
    for p in (*others, *biases):
        plain.state[p]["momentum_buffer"] = torch.zeros_like(p)  # which a first step that is skipped leaves undefined
    if not kernels:
        return [plain]
    dtype = _reduced_dtype(device.type) if config.mixed_precision else None
    products = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32  # float16 ends too early for them
    return [plain, Muon(kernels, momentum=_KERNEL_MOMENTUM, rate=_KERNEL_RATE, dtype=products)]


def autocast(device: torch.device, *, wanted: bool) -> AbstractContextManager[object]:
    """bfloat16 on processors and GPUs that compute in it, float16 on other GPUs, float32 elsewhere or if not wanted."""
    dtype = _reduced_dtype(device.type) if wanted else None
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def gradient_scaler(device: torch.device, *, wanted: bool) -> torch.amp.GradScaler:
    """Loss scaling, which only float16 needs; elsewhere it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=wanted and _reduced_dtype(device.type) is torch.float16)


@functools.cache
def _reduced_dtype(device_type: str) -> torch.dtype | None:
    if device_type == "cuda":
        ampere = torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0)
        return torch.bfloat16 if ampere else torch.float16  # which torch.cuda.is_bf16_supported() is not about
    return torch.bfloat16 if read_processor().computes_bfloat16 else None


class Muon(Optimizer):
    """Momentum whose step moves a kernel alike in every direction, not most where its gradient happens to be large.

    For kernels ``(cout, cin, height, width)`` of convolutions that a normalization follows. A kernel is a matrix from
    patches to channels. Its gradient is nearly of a low rank, so plain descent learns a few directions first and the
    others late; the nearest orthogonal matrix has them all. A training then needs far fewer epochs
    (``benchmarks/README.md``), and a few matrix products a step, whatever the batch.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, in the form that they
    trained CIFAR-10 with: kernels have a fixed length, since a normalization follows them, and no weight decay.
    """

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
