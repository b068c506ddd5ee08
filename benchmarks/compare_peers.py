"""Our INT8 against that of others, on one network with the same images: accuracy, speed, and what quantizing costs.

ONNX Runtime's quantize_static (defaults; as recommended; with entropy), NNCF with OpenVINO, and NVIDIA Model Optimizer
are installed in environments of their own, which takes some gigabytes and minutes once. All are given the same FP32
graph and the same calibration images, are judged on the same validation images, and take turns when they are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from common import Result, at_least, conclude, parser, run, show
from numpy.typing import NDArray
from peer_engines import Contender, Runner, Subject, Sums, Timing, in_fresh_process, logits_of, time_in_turns
from peer_ours import OURS, Task, calibrate_and_lower, make_ours, prepare, read_source, subject_of
from peer_quantizers import NOT_TO_BE_HAD, PEERS, Looks, Made, quantize_with, work_folder
from peer_table import Judged, Origin, Row, figures_of, table_of

from googlenet_edge.console import shown
from googlenet_edge.dataset import ImageSet
from googlenet_edge.engines.accuracy import Evaluation, compare
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.predictor import ranking
from googlenet_edge.engines.sensitivity import noise
from googlenet_edge.files import check_writable, sha256_file
from googlenet_edge.processor import read_processor
from googlenet_edge.workspace import CHECKPOINT_FILE, GRAPH_FILE, split_seed

FP32 = "FP32, ONNX Runtime"
THREADS = (1, 2)
TELLS_DB = 0.5
NOTES = """
Timed is inference alone, one image: ours from uint8 pixels with the normalization inside, the peers' from normalized
float tensors. Quantizing goes from the graph and the images to the quantized model in a process of its own, imports
not counted, once; ours decodes the images and tries what to choose in that time, the peers get decoded tensors. Peak
memory is that of the whole process. ONNX Runtime's entropy holds the activations of all images; where they do not
fit, it gets another try with some of them at a time, and our memory is set beside what it had when it ran out.
Runtimes are set up as they come, but for the number of threads; OpenVINO gets the settings of our own engine for
those, and a model for one image. NNCF looks at all calibration images, not at its default of 300. Model Optimizer
quantizes for TensorRT, so that its time here would say nothing; what it leaves float is float32 here, not float16.
"""
OTHER_SUMS = "other figures where sums cannot saturate: next row"
EXACT = "asked for sums that do not saturate (ONNX Runtime: session.x64quantprecision; OpenVINO: in float)"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: a task, its validation images, and how. ``saturates``: `Processor.saturates_u8s8`."""

    task: Task
    val: ImageSet
    environments: Path
    rounds: int
    saturates: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that is being filled, and what is measured for it; nothing where making it failed."""

    row: Row
    contender: Contender | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """What a comparison keeps beside its figures."""

    checkpoint_sha256: str
    calibration_images: int
    validation_images: int
    crop: int
    rows: list[Row]


def main() -> None:
    given = options().parse_args()
    circumstances, saturates = read_circumstances(), read_processor().saturates_u8s8
    if given.out:
        check_writable(given.out)
    source = read_source(given.run, given.data)
    with work_folder(given.env) as work:
        images = given.calibration_images
        task = Task(work, given.data, split_seed(given.run), images, given.max_drop)
        val = prepare(task, source, limit=given.limit)
        rows = compare_all(Plan(task, val, given.env, given.rounds, saturates))
        details = details_of(task, val, rows)
    show(f"{len(val)} validation images, {images} calibration images\n\n{table_of(rows, THREADS)}\n{NOTES}")
    conclude(Result(figures_of(rows, THREADS), circumstances, details), given.out)


def options() -> argparse.ArgumentParser:
    found = parser(__doc__)
    found.add_argument("--run", type=Path, required=True, help=f"folder with {CHECKPOINT_FILE}, of any widths")
    found.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/* and val/CLASS/*")
    found.add_argument("--env", type=Path, default=Path(".peers-env"), help="where the peers are installed")
    found.add_argument("--calibration-images", type=at_least(1), default=500, help="how many of train/")
    found.add_argument(
        "--limit", type=at_least(1), metavar="N", help="judge on N of the validation images, for a trial"
    )
    found.add_argument("--max-drop", type=float, default=1.0, help="points, as `gnet-edge build` takes it")
    found.add_argument("--rounds", type=at_least(6), default=40, help="interleaved rounds of ten runs each")
    return found


def compare_all(plan: Plan) -> list[Row]:
    """A row for every model, FP32 first. What fails has a row that says so. Raises where FP32 itself fails."""
    subject, threads = subject_of(plan.task), max(THREADS)
    fp32 = Contender(FP32, plan.task.given / GRAPH_FILE, Runner.ONNXRUNTIME)
    exact = in_fresh_process(logits_of, fp32, subject, threads=threads)
    reference = Entry(Row(FP32, Origin.REFERENCE), fp32)
    entries = [judged(reference, exact, exact, plan.val)]
    for entry in made_all(plan):
        entries += judged_entries(entry, exact, plan, subject)
    missing = [Row(name, Origin.PEER, note=why) for name, why in NOT_TO_BE_HAD.items()]
    return [*timed_rows(entries, subject, rounds=plan.rounds), *missing]


def made_all(plan: Plan) -> Iterator[Entry]:
    """Every quantizer's model, ours first."""
    cost = cache(partial(in_fresh_process, calibrate_and_lower, plan.task))
    for name, engine in OURS.items():
        yield made(name, Origin.OURS, Looks.MORE, partial(make_ours, name, engine, plan.task, cost))
    for peer in PEERS:
        quantize = partial(
            quantize_with,
            peer,
            given=plan.task.given,
            out=plan.task.work / "peers" / Path(peer.script).stem,
            environments=plan.environments,
            saturates=plan.saturates,
        )
        yield made(peer.name, Origin.PEER, peer.looks, quantize)


def made(name: str, origin: Origin, looks: Looks, make: Callable[[], Made]) -> Entry:
    """The entry of a model, or of its failure."""
    shown(f"{name}: quantizing")
    found = attempted(make)
    if isinstance(found, str):
        shown(f"{name}: {found}")
        return Entry(Row(name, origin, looks=looks, note=f"failed: {found}"))
    return Entry(Row(name, origin, cost=found.cost, looks=looks, note=found.note), found.contender)


def attempted(call: Callable[[], T]) -> T | str:
    """What a call gives, or in one line why it failed: whatever a peer's runtime raises costs one row and no more."""
    try:
        return call()
    except Exception as problem:
        return str(problem).strip().partition("\n")[0] or type(problem).__name__


def judged_entries(entry: Entry, exact: NDArray[np.float32], plan: Plan, subject: Subject) -> list[Entry]:
    """The entry with its accuracy; and one with exact sums, where a peer's figures suffer from saturating ones."""
    contender = entry.contender
    if contender is None:
        return [entry]
    found = attempted(partial(in_fresh_process, logits_of, contender, subject, threads=max(THREADS)))
    if isinstance(found, str):
        return [Entry(replace(entry.row, note=f"failed when run: {found}"))]
    entry = judged(entry, exact, found, plan.val)
    if not plan.saturates or entry.row.origin is not Origin.PEER:
        return [entry]
    other = replace(contender, name=f"{contender.name}, exact sums", sums=Sums.EXACT)
    found = attempted(partial(in_fresh_process, logits_of, other, subject, threads=max(THREADS)))
    if isinstance(found, str):
        return [replace(entry, row=noted(entry.row, f"with exact sums: {found}"))]
    row = Row(other.name, Origin.PEER, looks=entry.row.looks, note=EXACT)
    with_exact = judged(Entry(row, other), exact, found, plan.val)
    if not differ(entry.row, with_exact.row):
        return [entry]
    return [replace(entry, row=noted(entry.row, OTHER_SUMS)), with_exact]


def judged(entry: Entry, exact: NDArray[np.float32], logits: NDArray[np.float32], images: ImageSet) -> Entry:
    """The entry with what float32 ``(n, classes)`` logits say about the images, beside FP32's."""
    found, reference = evaluation(logits, images), evaluation(exact, images)
    size = entry.contender.model_bytes if entry.contender else 0
    judgement = Judged(found.accuracy.top1, compare(reference, found), noise(exact, logits).sqnr_db, size)
    return replace(entry, row=replace(entry.row, judged=judgement))


def evaluation(logits: NDArray[np.float32], images: ImageSet) -> Evaluation:
    """What float32 ``(n, classes)`` logits say about the images."""
    best, labels = ranking(logits, 5), np.array(images.labels, np.int64)
    in_top5 = (best == labels[:, None]).any(axis=1)
    return Evaluation(images.class_names, labels, best[:, 0].astype(np.int64), in_top5, seconds=0.0, backend="any")


def differ(row: Row, other: Row) -> bool:
    """Whether two rows of the same images show more than other roundings: saturated sums cost many decibels."""
    if row.judged is None or other.judged is None:
        return False
    return abs(row.judged.sqnr_db - other.judged.sqnr_db) >= TELLS_DB


def noted(row: Row, note: str) -> Row:
    """The row with one more note."""
    return replace(row, note="; ".join(part for part in (row.note, note) if part))


def timed_rows(entries: Sequence[Entry], subject: Subject, *, rounds: int) -> list[Row]:
    """The rows of all entries, with the times of those whose models are meant for this processor."""
    contenders = [e.contender for e in entries if e.contender and e.contender.timed and e.row.judged]
    rows = [entry.row for entry in entries]
    for threads in THREADS:
        found = attempted(partial(in_fresh_process, time_in_turns, contenders, subject, threads=threads, rounds=rounds))
        if isinstance(found, str):
            rows = [noted(row, f"threads: {threads}, timing all failed: {found}") for row in rows]
            continue
        times = dict(zip((each.name for each in contenders), found, strict=True))
        rows = [with_time(row, threads, times.get(row.model)) for row in rows]
    return rows


def with_time(row: Row, threads: int, timing: Timing | None) -> Row:
    """The row with one more time, if there is one."""
    return replace(row, timings={**row.timings, threads: timing}) if timing else row


def details_of(task: Task, val: ImageSet, rows: list[Row]) -> Details:
    """What is kept of a comparison."""
    crop = subject_of(task).preprocess.crop
    return Details(sha256_file(task.run / CHECKPOINT_FILE), task.calibration_images, len(val), crop, rows)


if __name__ == "__main__":
    run(main)
