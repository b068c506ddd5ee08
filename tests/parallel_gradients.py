"""One training step in this process, or in one of two; run as a program it is one of two.

``python parallel_gradients.py RANK PORT OUT`` writes the averaged gradients and running statistics, trains beside them
on ``photos``, and ends as a training that was asked to stop.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from networks import SMALL, made_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from watching import Watching

from googlenet_edge import training_loop
from googlenet_edge.checkpoint import CheckpointInfo
from googlenet_edge.console import run_command
from googlenet_edge.dataset import refuse_damaged
from googlenet_edge.errors import TrainingError
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig
from googlenet_edge.parallel import Rank, first_tells_of_stop, make_parallel, process_group
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.reports import StoppedError
from googlenet_edge.train import check_training_data
from googlenet_edge.training_loop import training_loss
from googlenet_edge.training_state import TrainConfig, TrainingState, first_state, read_state

CONFIG = GoogLeNetConfig(4, widths=SMALL)
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


def train(rank: Rank, work: Path) -> None:
    """An epoch in ``whole``, and in ``stopped`` one that the second process asks to stop and that then goes on.

    ``apart0`` and ``apart1``: what a process is told that has another state than the other.
    ``told.json``: how often all processes spoke to each other between saving and stopping.
    """
    preprocess = Preprocess(32, 32)
    data = check_training_data(
        work / "photos", preprocess=preprocess, seed=0, when_damaged=refuse_damaged, progress=None
    )
    config = TrainConfig(epochs=1, batch_size=4, learning_rate=0.001, mixed_precision=False)
    info = CheckpointInfo(data.train.class_names, preprocess, widths=SMALL)
    state = first_state(info, config, images_sha256=data.train_sha256, batch_size=4)
    state, told = replace(state, start="weights"), list[int]()
    all_reduce, write_state = dist.all_reduce, training_loop.write_state

    def count(total: Tensor) -> None:
        told[-1:] = [each + 1 for each in told[-1:]]
        all_reduce(total)

    def write(folder: Path, state: TrainingState) -> None:
        told.append(0)
        write_state(folder, state)

    dist.all_reduce, training_loop.write_state = count, write  # type: ignore[assignment]
    run = partial(training_loop.train_from, data=data, rank=rank, workers=0)
    for name in ("whole", "stopped"):
        (work / name).mkdir(exist_ok=True)
    run(state, folder=work / "whole", observer=Watching())
    with suppress(StoppedError):
        run(state, folder=work / "stopped", observer=Watching(1 if rank.index else 1 << 30))
    if rank.first:
        (work / "told.json").write_text(json.dumps(told[-1]))
    try:
        run(replace(state, step=rank.index), folder=work / "stopped", observer=Watching())
    except TrainingError as problem:
        (work / f"apart{rank.index}").write_text(str(problem))
    run(read_state(work / "stopped"), folder=work / "stopped", observer=Watching())


def main() -> None:
    index, port, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": index, "WORLD_SIZE": "2"}

    def step_and_stop() -> None:
        with process_group() as rank, first_tells_of_stop(rank):
            found = gradients(rank)
            if rank.first:
                save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
            train(rank, out.parent)
            raise StoppedError("training stopped")

    run_command(step_and_stop)


if __name__ == "__main__":
    main()
