"""Stochastic gradient descent as every training here does it: Nesterov momentum, a warm-up, then half a cosine.

In mixed precision where the processor is made for it. Where weights are random at the start, `Muon` moves kernels.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from googlenet_edge.augment import Augmentation
from googlenet_edge.errors import TrainingError
from googlenet_edge.processor import read_processor
from googlenet_edge.statistics import Count, Tally

_BATCH, _SMALL_BATCH = 128, 16  # images a step if nobody says how many: at most, and where there are few at least
_STEPS = 16  # of an epoch, at least, where the images allow it
_WARMUP = 0.05  # a share of all steps
_MOMENTUM = 0.9  # Nesterov's
_KERNEL_MOMENTUM = 0.6
_KERNEL_RATE = 0.2
"""How much of the learning rate a kernel moves by, as a share of its length, where training starts at random."""

_BIAS_RATE = 8.0
"""How many times as fast the biases of normalizations learn where training starts at random.

Source: Page, "How to Train Your ResNet 8", and Jordan, arXiv 2404.00498, section 3.4; both take 64."""

# Of a quintic that is steepest at 0, so that few iterations are enough; from Muon's source, which has five of them, and
# for CIFAR-10 three.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 3


@dataclass(frozen=True, slots=True)
class DescentConfig:
    """What a person may set of any training.

    ``batch_size`` is that of all processes together; 0 is what suits the number of images (`batch_size_for`).
    ``learning_rate`` is the peak. ``weight_decay`` is that of kernels and matrices; biases, normalization and what
    `Muon` moves have none. ``mixed_precision`` acts where the processor is made for it; a network whose own roundings
    are the point needs it off.
    """

    epochs: Count = 30
    batch_size: Tally = 0
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
        self._optimizer = _Optimizer(_rules(model, config, at_random=at_random, device=device))
        self._scaler = gradient_scaler(device, wanted=config.mixed_precision)

    def step(self, number: int, loss: Tensor) -> float:
        """Goes down the gradient of ``loss`` and returns its value; ``number`` counts from 0 over all epochs.

        Raises:
            TrainingError: the loss is not finite; the weights cannot be used any more.
        """
        self._model.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.step(self._optimizer, self.rate(number))  # type: ignore[arg-type]
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
        """The buffers by parameter name."""
        buffers = dict(chain.from_iterable(rule.momentum.items() for rule in self._optimizer.rules))
        return {name: buffers[parameter] for name, parameter in self._model.named_parameters()}

    def scaling(self) -> dict[str, int | float]:
        """The state of loss scaling; empty where there is none."""
        state: dict[str, int | float] = self._scaler.state_dict()
        return state

    def load_scaling(self, state: dict[str, int | float]) -> None:
        """Goes on from what `scaling` gave."""
        if state:
            self._scaler.load_state_dict(state)

    def load_momentum(self, momentum: dict[str, Tensor]) -> None:
        """In place: `Nesterov` takes it for granted that a buffer is in the memory format of its parameter."""
        for name, buffer in self.momentum().items():
            if name in momentum:
                buffer.copy_(momentum[name])


def learning_rate_at(step: int, *, steps: int, config: DescentConfig) -> float:
    """Linear warm-up, then half a cosine down to zero (arXiv 1608.03983 without restarts)."""
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def batch_size_for(wanted: int, images: int, *, processes: int = 1) -> int:
    """The batch of all processes: as wanted, but not more than there are images, and divisible by the processes.

    If 0 is wanted, it is 128, or a sixteenth of the images where those are few, but at least 16 and two for a process:
    an epoch that is one step, or a few, teaches little.

    Raises:
        TrainingError: that leaves a process fewer than two images.
    """
    wanted = wanted or min(_BATCH, max(_SMALL_BATCH, 2 * processes, images // _STEPS))
    size = min(wanted, images) // processes * processes
    if size < 2 * processes:
        raise TrainingError(f"{images} images in batches of {wanted} are too few for {processes} processes; use fewer")
    return size


def _rules(model: nn.Module, config: DescentConfig, *, at_random: bool, device: torch.device) -> list[Rule]:
    """`Nesterov`, and where training starts at random `Muon` for the kernels."""
    normalizations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)] if at_random else []
    biases = [m.bias for m in normalizations] if at_random else []
    elsewhere = {*kernels, *biases}
    others = [p for p in model.parameters() if p not in elsewhere]
    dtype = _reduced_dtype(device.type) if config.mixed_precision else None
    products = torch.bfloat16 if dtype is torch.bfloat16 else torch.float32  # float16 ends too early for them
    return [
        Nesterov([p for p in others if p.ndim > 1], decay=config.weight_decay),
        Nesterov([p for p in others if p.ndim <= 1]),
        Nesterov(biases, rate=_BIAS_RATE),
        Muon(kernels, dtype=products),
    ]


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


class Rule(ABC):
    """How some parameters move down their gradients. Each has a buffer of momentum, of its shape and memory format."""

    def __init__(self, parameters: Iterable[Tensor], *, rate: float) -> None:
        """``rate``: how many times as fast as the learning rate says."""
        self.momentum = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        self.rate = rate

    def moving(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Parameters, each with its gradient and its buffer. A student's auxiliary heads have no gradient, and rest."""
        return [(each, each.grad, buffer) for each, buffer in self.momentum.items() if each.grad is not None]

    @abstractmethod
    def move(self, learning_rate: float) -> None:
        """Moves them and their buffers, in place."""


class _Optimizer:
    """The rules together, as loss scaling asks an optimizer: a step is skipped by all of them or by none.

    Not a `torch.optim.Optimizer`: making one imports PyTorch's compiler, which takes longer than all the rest.
    """

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.param_groups = [{"params": [*rule.momentum]} for rule in rules]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """By the gradients that are there."""
        for rule in self.rules:
            rule.move(learning_rate)


class Nesterov(Rule):
    """Gradient descent with Nesterov's momentum.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(self, parameters: Iterable[Tensor], *, rate: float = 1.0, decay: float = 0.0) -> None:
        """``decay``: this times a parameter is added to its gradient."""
        super().__init__(parameters, rate=rate)
        self._decay = decay

    def move(self, learning_rate: float) -> None:
        """See `Rule.move`."""
        if moving := self.moving():
            parameters, gradients, buffers = map(list, zip(*moving, strict=True))
            sgd(
                parameters,
                gradients,
                buffers,
                fused=True,
                weight_decay=self._decay,
                momentum=_MOMENTUM,
                lr=self.rate * learning_rate,
                dampening=0.0,
                nesterov=True,
                maximize=False,
            )


class Muon(Rule):
    """Momentum whose step moves a kernel alike in every direction, not most where its gradient happens to be large.

    For kernels ``(cout, cin, height, width)`` of convolutions that a normalization follows. A kernel is a matrix from
    patches to channels. Its gradient is nearly of a low rank, so plain descent learns a few directions first and the
    others late; the nearest orthogonal matrix has them all. A training then needs far fewer epochs
    (``benchmarks/README.md``), and a few matrix products a step, whatever the batch.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, in the form that they
    trained CIFAR-10 with: kernels have a fixed length, since a normalization follows them, and no weight decay.
    """

    def __init__(self, kernels: Iterable[Tensor], *, dtype: torch.dtype) -> None:
        """``dtype`` is that of the products."""
        super().__init__(kernels, rate=_KERNEL_RATE)
        self._dtype = dtype

    def move(self, learning_rate: float) -> None:
        """Turns each kernel by at most about ``rate`` times the learning rate of its length."""
        for kernel, gradient, buffer in self.moving():
            buffer.mul_(_KERNEL_MOMENTUM).add_(gradient)
            ahead = gradient.add(buffer, alpha=_KERNEL_MOMENTUM)
            direction = orthogonal(ahead.flatten(1).to(self._dtype)).to(kernel.dtype).view(kernel.shape)
            kernel.mul_(len(kernel) ** 0.5 / kernel.norm()).sub_(direction, alpha=self.rate * learning_rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are all 1: they end between 0.67 and 1.21.

    Those below 0.0175 of the length of ``matrix`` end lower, up to 41 times as large as that share. ``matrix``: float
    ``(rows, columns)``, of any rank; zeros stay zeros.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.t().contiguous()
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.t()
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.t()
