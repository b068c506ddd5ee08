"""Quantizing, ours and a peer's in turns: seconds, memory, and their ratios.

Each makes an INT8 model from the same FP32 graph with the same images of a data set's train/, every time in a process
of its own, imports not counted. Ours checks and decodes the files and tries how to quantize; the peer gets decoded
tensors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import Figure, Result, at_least, conclude, parser, run
from peer_engines import in_fresh_process
from peer_ours import Task, calibrate_and_lower, prepare, read_source
from peer_quantizers import PEERS, Cost, Looks, Peer, quantize_with, work_folder

from googlenet_edge.console import bar
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.files import check_writable
from googlenet_edge.processor import read_processor
from googlenet_edge.statistics import median_interval
from googlenet_edge.workspace import CHECKPOINT_FILE, split_seed

CHOICES = {Path(peer.script).stem: peer for peer in PEERS if peer.looks is Looks.MORE}


@dataclass(frozen=True, slots=True)
class Details:
    """What a run keeps beside its figures: what every process needed, in the order of the rounds."""

    peer: str
    images: int
    crop: int
    ours: list[Cost]
    theirs: list[Cost]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", type=Path, required=True, help=f"folder with {CHECKPOINT_FILE}")
    options.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/* and val/CLASS/*")
    options.add_argument("--env", type=Path, default=Path(".peers-env"), help="where the peers are installed")
    options.add_argument("--peer", choices=CHOICES, default="openvino_nncf", help="whom to compare with")
    options.add_argument("--images", type=at_least(40), default=500, help="how many of train/ to calibrate on")
    options.add_argument("--rounds", type=at_least(6), default=8, help="how often each quantizes")
    given = options.parse_args()
    circumstances, peer = read_circumstances(), CHOICES[given.peer]
    if given.out:
        check_writable(given.out)
    source = read_source(given.run, given.data)
    with work_folder(given.env) as work:
        task = Task(work, given.data, split_seed(given.run), given.images, max_drop_points=1.0)
        prepare(task, source, limit=1)
        ours, theirs = in_turns(task, peer, given.env, given.rounds)
    details = Details(peer.name, given.images, source.graph.preprocess.crop, ours, theirs)
    conclude(Result(figures_of(peer.name, ours, theirs), circumstances, details), given.out)


def in_turns(task: Task, peer: Peer, environments: Path, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """What ours and the peer's needed, round after round, in an order that changes. A first round is not counted."""
    saturates = read_processor().saturates_u8s8

    def ours(_: Path) -> Cost:
        return in_fresh_process(calibrate_and_lower, task)

    def theirs(out: Path) -> Cost:
        return quantize_with(peer, given=task.given, out=out, environments=environments, saturates=saturates).cost

    costs: dict[Callable[[Path], Cost], list[Cost]] = {ours: [], theirs: []}
    with bar("quantizing in turns") as progress:
        for number in range(rounds + 1):
            for quantize in (ours, theirs) if number % 2 else (theirs, ours):
                costs[quantize].append(quantize(task.work / "peers" / str(number)))
            progress(number + 1, rounds + 1)
    return costs[ours][1:], costs[theirs][1:]


def figures_of(peer: str, ours: Sequence[Cost], theirs: Sequence[Cost]) -> tuple[Figure, ...]:
    """Medians of both, and of the ratios of each round."""
    ratios = [mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=True)]
    return (
        _median("ours", [cost.seconds for cost in ours], "s"),
        _median(peer, [cost.seconds for cost in theirs], "s"),
        _median(f"ours / {peer}", ratios, "", most=1.0),
        Figure("ours: most memory", max(cost.peak_memory_mb or 0.0 for cost in ours), "MB"),
        Figure(f"{peer}: most memory", max(cost.most_memory_mb or 0.0 for cost in theirs), "MB"),
    )


def _median(what: str, values: Sequence[float], unit: str, *, most: float | None = None) -> Figure:
    interval = median_interval(values)
    detail = f"95 % interval {interval.low:.3g}…{interval.high:.3g}"
    return Figure(what, statistics.median(values), unit, most, detail=detail)


if __name__ == "__main__":
    run(main)
