"""What the commands say: words, tables and progress for people on stderr, data for programs on stdout.

Progress is silent where stderr is no terminal.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from googlenet_edge.dataset import Checked, ImageSet, without_damaged
from googlenet_edge.dataset import Progress as ProgressCallback
from googlenet_edge.errors import EdgeError, OutputError
from googlenet_edge.files import to_json
from googlenet_edge.workspace import SETTINGS_FILE, Taken

if TYPE_CHECKING:
    from googlenet_edge.reports import EpochReport, StepReport

PIPED_WIDTH = 160
BUILD_PACKAGES = ("torch", "onnx", "safetensors", "threadpoolctl")
REPORT_PACKAGES = ("jinja2",)
_STOPPING = "ending this step"
_THIS_PROCESS = os.getpid()
T = TypeVar("T")


def printable(text: str) -> str:
    """Text from files and names, with escapes in the place of what would steer a terminal; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class _Console(Console):
    """A console that shows words from anywhere."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See `Console`; every word passes here, those in the cells of tables, too."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Leaves it to `shown`; rich would end the command, and close stdout before."""
        raise  # noqa: PLE0704 - rich calls this where it handles the error


err = _Console(
    stderr=True,
    highlight=False,
    markup=False,
    emoji=False,
    soft_wrap=True,
    width=None if sys.stderr and sys.stderr.isatty() else PIPED_WIDTH,  # none: a program was started with it closed
)


def shown(what: RenderableType) -> None:
    """Shows a line or a table to people, the first of torchrun's processes; where it cannot, the command goes on."""
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
        return
    with suppress(OSError):
        err.print(what)


class _Warnings(logging.Handler):
    """What modules warn of, told as `shown` tells: above a bar, not within its line, and by one of torchrun's."""

    def emit(self, record: logging.LogRecord) -> None:
        said = self.format(record)
        if os.getpid() == _THIS_PROCESS:
            shown(said)
        else:  # a loader of images, forked perhaps while the bar held its lock
            with suppress(OSError):
                os.write(2, f"{said}\n".encode(errors="backslashreplace"))


def named(taken: Taken) -> Path:
    """The path, after telling which one it is where nobody named it."""
    if taken.because != "given":
        shown(f"using {taken.path} ({taken.because})")
    return taken.path


def chosen(option: str, given: T | None, setting: T | None, default: T) -> T:
    """What was given, else what ``gnet-edge.toml`` says, after telling so, else the default."""
    if given is not None:
        return given
    if setting is None:
        return default
    shown(f"using {option} {setting.value if isinstance(setting, Enum) else setting} ({SETTINGS_FILE} says so)")
    return setting


def leave_out_damaged(checked: Checked) -> ImageSet:
    """`without_damaged`, after telling how many that leaves out. Raises `DataError` as it does."""
    if checked.damaged:
        total = len(checked.images) + len(checked.damaged)
        shown(f"left out {len(checked.damaged)} damaged of {total} images, first: {checked.damaged[0]}")
    return without_damaged(checked)


def write_json(result: Any) -> None:
    """Writes data for programs on stdout. Raises `OutputError` where that is closed, or a file on a full disk."""
    if sys.stdout is None:
        raise OutputError("cannot write the result on stdout: it is closed")
    try:
        sys.stdout.buffer.write(to_json(result))
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has read enough: click ends the command quietly
        raise
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more when it ends
        raise OutputError(f"cannot write the result on stdout: {problem.strerror}; free space") from problem


@contextmanager
def bar(what: str) -> Iterator[ProgressCallback]:
    """A progress bar as a callback of (done, total)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    task = progress.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    progress.start()
    try:
        yield report
    finally:
        with suppress(OSError):  # the terminal is gone
            progress.stop()


class TrainingDisplay:
    """The progress bar of training; a context manager that also turns Ctrl-C into a wish to stop."""

    def __init__(self, *, visible: bool) -> None:
        self._stop = False
        self._visible = visible
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  top-1 {task.fields[top1]}  {task.fields[speed]} images/s"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=err,
            transient=True,
            disable=not (visible and err.is_terminal),
        )
        self._task = self._progress.add_task("epoch 1", total=1, loss="–", top1="–", speed="–", left="?")

    def __enter__(self) -> TrainingDisplay:
        """Starts the bar; from now on Ctrl-C and SIGTERM ask training to stop after the step at hand."""
        self._before = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar and gives the signals back."""
        self._progress.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop:  # asked twice: at once, and what was saved before counts
            raise KeyboardInterrupt
        self._stop = True
        self._progress.tasks[0].description = _STOPPING  # not by update: the signal may have interrupted one

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._stop

    def on_checked(self, done: int, total: int) -> None:
        """Moves the bar while images are checked, before training, when there is nothing to save."""
        if self._stop:
            raise KeyboardInterrupt
        self._progress.update(self._task, total=total, completed=done, description="checking images")

    def on_resume(self, epoch: int, step: int) -> None:
        """Prints where it goes on."""
        if self._visible:
            shown(f"going on with epoch {epoch}" + (f" after step {step}" if step else ""))

    def on_step(self, report: StepReport) -> None:
        """Moves the bar."""
        minutes, seconds = divmod(round(report.remaining_s), 60)
        self._progress.update(
            self._task,
            total=report.epochs * report.steps,
            completed=(report.epoch - 1) * report.steps + report.step,
            description=_STOPPING if self._stop else f"epoch {report.epoch}/{report.epochs}",
            loss=f"{report.loss:.3f}",
            top1=f"{report.top1:.1%}",
            speed=f"{report.images_per_s:.0f}",
            left=f"{minutes}:{seconds:02d}",
        )

    def on_epoch(self, report: EpochReport) -> None:
        """Prints one line."""
        if self._visible:
            shown(
                f"epoch {report.epoch:>3}  loss {report.loss:.3f}  train {report.train_top1:.1%}"
                f"  val top-1 {report.val_top1:.2%}  {report.images_per_s:.0f} images/s  {report.seconds:.0f} s"
            )


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; an `EdgeError`, or a package of an extra that is not installed, becomes one line and exit 1."""
    logging.basicConfig(format="gnet-edge: %(message)s", handlers=[_Warnings()])
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of images that are read all the same
    warnings.filterwarnings("ignore", "TypedStorage")  # of safetensors, where a loader that is killed interrupts it
    if any(not text or re.fullmatch("--[a-z-]+=", text) for text in sys.argv[1:]):
        _fail("an argument is empty; is a variable of your shell not set?")
    try:
        Path.cwd()  # once, or else a working folder that was removed fails somewhere, without a name
    except FileNotFoundError:
        _fail("the working folder was removed; change to another")
    try:
        command()
    except EdgeError as problem:
        _fail(str(problem))
    except OSError as problem:
        _fail(f"{problem.filename or 'the system'}: {problem.strerror or problem}")
    except ModuleNotFoundError as problem:
        extra = "report" if problem.name in REPORT_PACKAGES else "build"
        if problem.name not in BUILD_PACKAGES + REPORT_PACKAGES:
            raise
        _fail(f"this needs {problem.name}; install it with: pip install 'googlenet-edge[{extra}]'")


def _fail(message: str) -> NoReturn:
    if sys.stderr is not None:
        sys.stderr.write("gnet-edge: " + printable(message).replace("\n", "\\n") + "\n")
    sys.exit(1)
