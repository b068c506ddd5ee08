"""One training step in this process, or in one of two; run as a program it is one of two.

``python parallel_gradients.py RANK PORT OUT`` writes the averaged gradients and running statistics, and ends as a
training that was asked to stop.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from networks import made_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from googlenet_edge.console import run_command
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig
from googlenet_edge.parallel import Rank, first_tells_of_stop, make_parallel, process_group
from googlenet_edge.reports import StoppedError
from googlenet_edge.training_loop import training_loss

CONFIG = GoogLeNetConfig(4)
BATCH = 8


class Step(nn.Module):
    def __init__(self, model: GoogLeNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return training_loss(self.model.forward_with_aux(images), labels)


def gradients(rank: Rank) -> dict[str, Tensor]:
    """float64 gradients and buffers after a step on this rank's share of a fixed batch."""
    model = GoogLeNet(CONFIG)
    model.load_state_dict(made_weights(CONFIG, seed=1))
    model.to(memory_format=torch.channels_last).double().train()  # type: ignore[call-overload]  # as it is trained
    make_parallel(model, rank, torch.Generator().manual_seed(5))
    random = torch.Generator().manual_seed(1)
    images = torch.rand(BATCH, 3, 32, 32, generator=random, dtype=torch.float64) * 2 - 1
    share = BATCH // rank.world
    mine = slice(rank.index * share, (rank.index + 1) * share)
    step: nn.Module = Step(model)
    if rank.world > 1:
        step = DistributedDataParallel(step)
    step(images[mine], torch.arange(BATCH)[mine] % 4).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers())


def main() -> None:
    index, port, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": index, "WORLD_SIZE": "2"}

    def step_and_stop() -> None:
        with process_group() as rank, first_tells_of_stop(rank):
            found = gradients(rank)
            if rank.first:
                save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
            raise StoppedError("training stopped")

    run_command(step_and_stop)


if __name__ == "__main__":
    main()
