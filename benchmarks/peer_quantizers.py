"""The peers: which there are, the environments they run in, and how one is asked to quantize the graph."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from peer_engines import Contender, Runner

from googlenet_edge.console import shown
from googlenet_edge.errors import EngineError, OutputError
from googlenet_edge.files import from_json, write_bytes

SCRIPTS = Path(__file__).with_name("peers")
TIMEOUT_S = 3600
_WORK = "work-"
NOT_TO_BE_HAD = {
    "ncnn": "not to be had: neither the wheel of ncnn 1.0.20261020 nor that of pnnx 20261020 holds ncnn2table and"
    " ncnn2int8, or another converter to INT8"
}
"""Peers without a row of figures, and why."""


class Looks(Enum):
    """What a quantizer looks at in the activations."""

    EXTREMES = "minimum and maximum"
    MORE = "more than minimum and maximum"


@dataclass(frozen=True, slots=True)
class Peer:
    """A quantizer that is not ours.

    Attributes:
        script: its file in ``benchmarks/peers``.
        requirements: the file beside it that says what its environment holds.
        second_try: further arguments, where the script failed without them.
        timed: whether its models are meant for this processor.
    """

    name: str
    script: str
    runner: Runner
    looks: Looks
    requirements: str = "requirements.txt"
    second_try: tuple[str, ...] = ()
    timed: bool = True


ENTROPY = Peer(
    "ONNX Runtime, recommended, entropy",
    "onnxruntime_entropy.py",
    Runner.ONNXRUNTIME,
    Looks.MORE,
    second_try=("--at-once", "32"),
)
PEERS = (
    Peer("ONNX Runtime, defaults", "onnxruntime_default.py", Runner.ONNXRUNTIME, Looks.EXTREMES),
    Peer("ONNX Runtime, recommended", "onnxruntime_recommended.py", Runner.ONNXRUNTIME, Looks.EXTREMES),
    ENTROPY,
    Peer("NNCF, OpenVINO", "openvino_nncf.py", Runner.OPENVINO, Looks.MORE),
    Peer(
        "Model Optimizer, ONNX Runtime",
        "nvidia_modelopt.py",
        Runner.ONNXRUNTIME,
        Looks.MORE,
        requirements="requirements-modelopt.txt",
        timed=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process of its own needed to quantize, imports not counted; memory is VmHWM, in MB of 10^6 bytes.

    ``full_at_mb`` is what it had when memory ran out, where it had to be asked for less.
    """

    seconds: float
    peak_memory_mb: float | None
    versions: dict[str, str]
    full_at_mb: float | None = None

    @property
    def most_memory_mb(self) -> float | None:
        """Of the process that did as it comes, whether it came to an end or not."""
        return self.full_at_mb or self.peak_memory_mb


@dataclass(frozen=True, slots=True)
class Made:
    """A quantized model. ``note`` says what was odd about it."""

    contender: Contender
    cost: Cost
    note: str = ""


def quantize_with(peer: Peer, *, given: Path, out: Path, environments: Path, saturates: bool) -> Made:
    """Has a peer quantize.

    Args:
        given: see ``peers/handover.py``.
        out: the folder for its model; what it says goes to the file of the same name with ``.log``.
        environments: where the peers are installed.
        saturates: whether this processor's sums of u8·s8 products overflow.

    Raises:
        EngineError: it cannot be installed, or it failed.
    """
    python = python_with(peer.requirements, environments)
    command = [str(python), str(SCRIPTS / peer.script), str(given), str(out)]
    options = ("--saturates",) if saturates else ()
    out.mkdir(parents=True)
    note = ""
    try:
        _run([*command, *options], log=out.with_suffix(".log"), what=peer.name)
    except EngineError as problem:
        if not peer.second_try:
            raise
        note = f"only with {' '.join(peer.second_try)}; without: {problem}"
        shown(f"{peer.name}: {problem}; trying {' '.join(peer.second_try)}")
        _run([*command, *options, *peer.second_try], log=out.with_suffix(".log"), what=peer.name)
    where = f"{peer.name}'s result"
    cost = from_json((out / "result.json").read_bytes(), Cost, where=where, error=EngineError)
    if (full := out / "full.json").is_file():
        cost = replace(cost, full_at_mb=from_json(full.read_bytes(), float, where=where, error=EngineError))
    model = out / ("model.xml" if peer.runner is Runner.OPENVINO else "model.onnx")
    return Made(Contender(peer.name, model, peer.runner, timed=peer.timed), cost, note)


def python_with(requirements: str, environments: Path) -> Path:
    """The interpreter of an environment that holds what a file of `SCRIPTS` asks for; made where it is not there.

    Raises:
        EngineError: it cannot be made.
    """
    wanted = SCRIPTS / requirements
    folder = environments / wanted.stem
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if not (done.is_file() and done.read_bytes() == wanted.read_bytes()):
        log = environments / f"{wanted.stem}.log"
        shown(f"installing {requirements} in {folder}")
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], log=log, what="python -m venv")
        install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(wanted)]
        _run(install, log=log, what=f"pip install -r {requirements}")
        write_bytes(done, wanted.read_bytes())
    return python


@contextmanager
def work_folder(environments: Path) -> Iterator[Path]:
    """An empty folder within that of the environments, which is made where it is not there; it is removed at the end.

    Raises:
        OutputError: the folder cannot be written, or is that of something else.
    """
    known = {Path(peer.requirements).stem for peer in PEERS}
    try:
        environments.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in environments.iterdir())
    except OSError as problem:
        reason = problem.strerror
        raise OutputError(
            f"{environments} cannot hold the peers' environments: {reason}; give another --env"
        ) from problem
    strange = [name for name in names if not name.startswith(_WORK) and name.partition(".")[0] not in known]
    if strange:
        raise OutputError(f"{environments} holds something else ({strange[0]}); give --env a new folder, or its own")
    _remove_left(environments)
    with tempfile.TemporaryDirectory(dir=environments, prefix=f"{_WORK}{os.getpid()}-") as name:
        yield Path(name)


def _remove_left(environments: Path) -> None:
    """Removes the folders of processes that were killed."""
    for left in environments.glob(f"{_WORK}*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)


def _run(command: list[str], *, log: Path, what: str) -> None:
    """Runs a program whose words go to a file. Raises `EngineError` with the last of them where it fails."""
    try:
        with log.open("wb") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as problem:
        raise EngineError(f"{what} was stopped after {TIMEOUT_S} s") from problem
    if done.returncode != 0:
        raise EngineError(f"{what} failed: {_reason(log, done.returncode)}")


def _reason(log: Path, code: int) -> str:
    """The last line of a log, or what ended the process."""
    if code < 0:
        return f"signal {-code}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"
