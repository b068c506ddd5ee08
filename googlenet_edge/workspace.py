"""Where things are when nobody says: ``gnet-edge.toml`` in the working folder, and the newest under ``runs/``."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from googlenet_edge.errors import ConfigError, OutputError
from googlenet_edge.files import (
    check_file_place,
    check_writable,
    from_json,
    read_file,
    real_path,
    write_json,
)
from googlenet_edge.target import Device, EngineChoice, Precision

RUNS = Path("runs")
CHECKPOINT_FILE = "checkpoint.safetensors"
PRUNED_FILE = "pruned.safetensors"
FINETUNED_FILE = "finetuned.safetensors"
GRAPH_FILE = "googlenet.onnx"
TABLE_FILE = "calibration.json"
SLIM_FILE = "slim.json"
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
MEASUREMENT_FILE = "measurement.json"
ANSWERS_FILE = "answers.json"
STATE_FILE = "training-state.safetensors"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
NOT_OURS = "is not of a training by gnet-edge; give another --out"
SETTINGS_FILE = Path("gnet-edge.toml")
MOST_THREADS = 256
_SLIM = "slim-{}"
_USUAL_NAMES = {
    *(CHECKPOINT_FILE, PRUNED_FILE, FINETUNED_FILE, STATE_FILE, GRAPH_FILE, TABLE_FILE),
    *(SLIM_FILE, MANIFEST_FILE, MEASUREMENT_FILE, ANSWERS_FILE, RUN_FILE),
}


Text = Annotated[str, msgspec.Meta(min_length=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``gnet-edge.toml``: what a person does not want to type again. Paths are relative to the working folder."""

    data: Text | None = None
    checkpoint: Text | None = None
    precision: Precision | None = None
    device: Device | None = None
    engine: EngineChoice | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=MOST_THREADS)] | None = None
    calibration_images: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_drop: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    rounds: Annotated[int, msgspec.Meta(ge=6, le=5000)] | None = None
    host: Text | None = None
    host_python: Text | None = None
    host_keep: bool | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``run.json``: the images that a checkpoint was trained on, and the seed that split them."""

    data: str
    seed: int


def read_settings() -> Settings:
    """The settings of the working folder; all empty where there is no file. Raises `ConfigError`."""
    if not os.path.lexists(SETTINGS_FILE):
        return Settings()
    data = read_file(SETTINGS_FILE, limit=1 << 20, error=ConfigError)
    try:
        return msgspec.toml.decode(data.removeprefix(codecs.BOM_UTF8), type=Settings)
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        known = f"it may set {', '.join(Settings.__struct_fields__)}"
        for name, kind in (("device", Device), ("precision", Precision)):
            if f"$.{name}" in str(problem):
                known = f"a {name} is one of {', '.join(each.value for each in kind)}"
        raise ConfigError(f"{SETTINGS_FILE.absolute()} cannot be used: {problem}; {known}") from problem


def write_run_record(folder: Path, record: RunRecord) -> None:
    """Writes ``run.json``. Raises `OutputError`."""
    write_json(folder / RUN_FILE, record)


def read_run_record(folder: Path) -> RunRecord | None:
    """What ``run.json`` says, or nothing where there is none. Raises `ConfigError`."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    return from_json(read_file(path, limit=1 << 20, error=ConfigError), RunRecord, where=str(path), error=ConfigError)


def refuse_another_s_run(folder: Path) -> None:
    """Raises `ConfigError` where ``run.json`` is not what `write_run_record` writes there."""
    try:
        read_run_record(folder)
    except ConfigError as problem:
        raise ConfigError(f"{folder / RUN_FILE} {NOT_OURS}") from problem


def run_name(data: Path) -> str:
    """What a training on images is called; what begins with a dot would be hidden."""
    return real_path(data).name.lstrip(".") or "run"


def run_folder_for(data: Path) -> Path:
    """The folder of a training on ``data``: one that was interrupted, else the first free of NAME, NAME-2, NAME-3 …"""
    name = run_name(data)
    number = 1
    while True:
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        if not (folder / CHECKPOINT_FILE).exists():
            return folder
        number += 1


def slim_folder(folder: Path, speedup: float) -> Path:
    """Where the network goes that was slimmed for a speed-up."""
    return folder / _SLIM.format(f"{speedup:g}")


@dataclass(frozen=True, slots=True)
class Taken:
    """A path, and why it is this one: what a command says when it was not told."""

    path: Path
    because: str


def take_checkpoint(given: Path | None, settings: Settings) -> Taken:
    """The checkpoint to use. Raises `ConfigError` where there is none."""
    mend = "train first with: gnet-edge train --data DIR"
    if given or settings.checkpoint:
        return _file_of_run(_existing(_given_or_set(given, settings.checkpoint), mend), CHECKPOINT_FILE)
    return _newest(f"*/{CHECKPOINT_FILE}", "checkpoint", mend)


def take_graph(given: Path | None) -> Taken:
    """The inference graph to use. Raises `ConfigError` where there is none."""
    mend = "export one first with: gnet-edge export"
    if given:
        return _file_of_run(_existing(Taken(given, "given"), mend), GRAPH_FILE)
    return _newest(f"*/{GRAPH_FILE}", "graph", mend)


def take_data(given: Path | None, settings: Settings, run: Path | None) -> Taken:
    """The images to use: those that ``run`` was trained on. Raises `ConfigError` where none are known."""
    if given or settings.data:
        return _given_or_set(given, settings.data)
    if run is None:
        raise ConfigError("give --data DIR, a folder with train/CLASS/* and val/CLASS/*, or with CLASS/*")
    record = read_run_record(run)
    if record is None:
        raise ConfigError(f"{run} does not say which images it was trained on; give --data DIR")
    return Taken(Path(record.data), f"{real_path(run).name} was trained on it")


def named_after(folder: Path, ending: str) -> Path:
    """Another folder beside one, named after it. ``.`` and ``..`` have no name of their own."""
    named = folder if folder.name.strip(".") else real_path(folder)
    return named.with_name(named.name + ending)


def result_place(given: Path | None, *, beside: Path, usual: str) -> Path:
    """Where a result made from ``beside`` goes: as given, else under its usual name. Raises as `check_result_place`."""
    path = given or beside.with_name(usual)
    check_result_place(path, usual)
    if path.exists() and path.samefile(beside):
        raise OutputError(f"cannot write {path}: it is what is read; give another --out")
    return path


def check_result_place(path: Path, usual: str) -> None:
    """Refuses a place where a result would destroy something else: asked before the work, not after.

    Args:
        usual: the name that such a result has where nobody says another.

    Raises:
        OutputError: another ending, the usual name of something else, inside a bundle, a folder, or not to be written.
    """
    ending = Path(usual).suffix
    if path.suffix != ending:
        raise OutputError(f"cannot write {path}: let its name end with {ending}")
    if path.name in _USUAL_NAMES - {usual}:
        raise OutputError(f"cannot write {path}: that is the name of something else; give another --out")
    refuse_inside_bundle(path)
    check_file_place(path)
    check_writable(path)


def refuse_inside_bundle(path: Path) -> None:
    """A file more, and a bundle is not what its manifest says. Raises `OutputError`."""
    for folder in real_path(path).parents:
        if is_bundle(folder) and (folder / MODEL_FILE).exists():  # others have a manifest.json, too
            raise OutputError(f"cannot write {path}: {folder} is a bundle; give another --out")


def is_bundle(path: Path) -> bool:
    """Whether a path is a folder that looks like a bundle."""
    return (path / MANIFEST_FILE).is_file()


def take_bundle(given: Path | None) -> Taken:
    """The folder of the bundle to use. Raises `ConfigError` where there is none."""
    mend = "build one first with: gnet-edge build --precision int8"
    if given:
        return _existing(Taken(given, "given"), mend)
    newest = _newest(f"*/*/{MANIFEST_FILE}", "bundle", mend, f"*/{_SLIM.format('*')}/*/{MANIFEST_FILE}")
    return Taken(newest.path.parent, newest.because)


def take_bundles(given: Sequence[Path]) -> list[Taken]:
    """The folders of the bundles to compare: without a word, all of the newest run. Raises `ConfigError`."""
    if given:
        return [take_bundle(path) for path in given]
    run = take_bundle(None).path.parent
    run = run.parent if run.match(_SLIM.format("*")) else run
    found = (run.glob(f"{folder}*/{MANIFEST_FILE}") for folder in ("", f"{_SLIM.format('*')}/"))
    manifests = sorted(path for each in found for _, path in _finished(each))
    return [Taken(manifest.parent, "of the newest run") for manifest in manifests]


def take_results(given: Sequence[Path]) -> list[Taken]:
    """The files to report on: without a word, the newest measurement, with the answers beside it.

    Raises `ConfigError` where there is none.
    """
    if given:
        return [Taken(path, "given") for path in given]
    mend = f"measure first with: gnet-edge bench --out runs/NAME/{MEASUREMENT_FILE}"
    newest = _newest(f"*/{MEASUREMENT_FILE}", "measurement", mend)
    answers = newest.path.with_name(ANSWERS_FILE)
    return [newest, *([Taken(answers, "beside it")] if answers.exists() else [])]


def split_seed(run: Path) -> int:
    """The seed that split the images of a run; 0 where it is not known. Raises `ConfigError`."""
    record = read_run_record(run)
    return record.seed if record else 0


def _given_or_set(given: Path | None, setting: str | None) -> Taken:
    return Taken(given, "given") if given else Taken(Path(setting or ""), f"{SETTINGS_FILE} says so")


def _existing(taken: Taken, mend: str) -> Taken:
    if not taken.path.exists():
        by = "" if taken.because == "given" else f", which {SETTINGS_FILE} names,"
        raise ConfigError(f"{taken.path}{by} is missing; {mend}")
    return taken


def _file_of_run(taken: Taken, usual: str) -> Taken:
    if taken.path.is_dir():
        found = (place for place in (taken.path, taken.path.parent) if (place / usual).is_file())
        place = next(found, RUNS / "NAME")
        raise ConfigError(f"{taken.path} is a folder; give a file, such as {place / usual}")
    return taken


def _newest(pattern: str, what: str, mend: str, *deeper: str) -> Taken:
    newest = max((each for one in (pattern, *deeper) for each in _finished(RUNS.glob(one))), default=None)
    if newest is None:
        mend = f"change to the folder that holds {RUNS}/" if RUNS.name in Path.cwd().parts else mend
        raise ConfigError(f"there is no {what} under {RUNS.absolute()}; {mend}")
    return Taken(newest[1], f"the newest under {RUNS}/")


def _finished(found: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    """(time of the last change in ns, path), without the hidden temporaries of whoever is writing just now."""
    for path in found:
        if not any(part.startswith(".") for part in path.parts):
            with suppress(FileNotFoundError):
                yield path.stat().st_mtime_ns, path
