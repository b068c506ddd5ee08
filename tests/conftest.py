"""What several test files share: real data where it is there, and one small run of the whole flow."""

from __future__ import annotations

import ctypes
import fcntl
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import libgne
import pytest
from command import Built, copy_of, done
from hypothesis import settings
from scripts import FOLDER, Answer

from googlenet_edge.pictograms import write_pictograms

SHARED = Path(__file__).parents[2] / "shared"

settings.register_profile("steady", deadline=None)  # a busy machine is no failure
settings.load_profile("steady")

# Where two tests share two cores, threads of PyTorch that wait in loops take most of the time of both.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script, and so in children


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `realdata` or `rtx` where the folder, or the package, is not there.

    What takes longest as a file comes first, so that no process is left alone with it at the end.
    """
    items.sort(key=lambda item: item.path.name not in ("test_readme.py", "test_training.py"))
    missing = {}
    if not SHARED.is_dir():
        missing["realdata"] = f"{SHARED.name}/ is not beside the repository"
    if not find_spec("tensorrt_rtx"):
        missing["rtx"] = "TensorRT for RTX is not installed: pip install 'googlenet-edge[rtx]'"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says how a process of tests ended that ended too early, which pytest-xdist does not: -9 is SIGKILL."""
    if error:
        print(f"\n{node.gateway.id} ended with {node.gateway._io.popen.wait(60)}", file=sys.stderr)


@pytest.fixture(autouse=True)
def _signal_stack_stays() -> Iterator[None]:
    """Where a test leaves handlers of signals a stack that is freed then, the next signal ends all tests."""
    before = _signal_stack()
    yield
    assert _signal_stack() == before


def _signal_stack() -> list[int | None]:
    """The ``stack_t`` of this thread, see sigaltstack(2)."""
    found = (ctypes.c_void_p * 3)()
    ctypes.CDLL(None).sigaltstack(None, found)
    return list(found)


def made_once(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the first of the processes which run tests makes; the others wait for it, and take it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.with_suffix(".made").exists():
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as a person has it after a training: ``photos/train``, ``photos/val`` and ``runs/``.

    One epoch on a few generated pictograms, by the real command, of a network with few channels: one that guesses. So
    ``gnet-edge.toml`` allows any loss of accuracy, and the README's commands run as they stand. Tests that write take a
    copy.
    """

    def make(folder: Path) -> None:
        from networks import SMALL, made_checkpoint

        from googlenet_edge.checkpoint import write_checkpoint

        write_pictograms(folder / "photos", train_per_class=8, val_per_class=4, size=48)
        small = folder.with_name("small.safetensors")
        write_checkpoint(small, made_checkpoint(widths=SMALL))
        options = ("--epochs", "1", "--size", "64", "--weights", str(small))
        gnet_edge("train", "--data", "photos", *options, cwd=folder)
        (folder / "gnet-edge.toml").write_text("max_drop = 100\n")

    return made_once("tiny_run", make, tmp_path_factory)


@pytest.fixture(scope="session")
def built(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`tiny_run` with graph, table and bundles, calibrated on a few images. Tests that write take a copy."""
    folder = copy_of(tiny_run, tmp_path_factory.mktemp("built") / "work")
    (folder / "gnet-edge.toml").write_text("max_drop = 100\ncalibration_images = 24\n")
    return Built(folder, done("build", "--precision", "fp32", cwd=folder), done("build", "--json", cwd=folder))


@pytest.fixture(scope="session")
def gne_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where libgne is installed: ``include``, ``lib``, ``lib/cmake/gne``, ``lib/pkgconfig``."""
    libgne.need_tools()

    def make(folder: Path) -> None:
        prefix = f"-DCMAKE_INSTALL_PREFIX={folder / 'installed'}"
        options = ("-DGNE_WERROR=ON", "-DGNE_TESTS=ON", prefix, "-DCMAKE_INSTALL_LIBDIR=lib")
        libgne.cmake(libgne.CPP, folder / "build", *options)
        libgne.done("cmake", "--install", folder / "build")

    return made_once("libgne", make, tmp_path_factory) / "installed"


@pytest.fixture(scope="session")
def gne(gne_prefix: Path) -> libgne.Library:
    """libgne, loaded by `ctypes`."""
    return libgne.load(gne_prefix / "lib" / "libgne.so")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Runs a script of benchmarks/ that ends early, in this process: (exit code, stdout, stderr)."""
    monkeypatch.syspath_prepend(FOLDER)

    def ask(script: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(FOLDER / script), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(FOLDER / script), run_name="__main__")
        return int(str(end.value.code)), *capsys.readouterr()

    return ask


def gnet_edge(*arguments: str, cwd: Path) -> None:
    """Runs the real command."""
    command = [str(Path(sys.executable).with_name("gnet-edge")), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
