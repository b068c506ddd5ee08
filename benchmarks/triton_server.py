"""A real Triton server answers as a bundle does, asked by the client in the README of the bundle's package.

The server is NVIDIA's, as the wheel of nvidia-pytriton holds it. That has no ONNX Runtime backend: `triton_backend.py`
plays it. All else is Triton's: the repository and its configuration, batches, HTTP, and the names of the classes.
Server and client run in an environment of their own, which takes 400 MB and is made once.
"""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from common import Figure, Result, conclude, parser, run
from PIL import Image

import googlenet_edge
from googlenet_edge.console import shown
from googlenet_edge.engines.bench import generated_jpeg
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.package import NAME, README, write_package
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device, Recipient

REPOSITORY = Path(__file__).parents[1]
WANTED = ("numpy<2", f"onnxruntime=={version('onnxruntime')}", "tritonclient[http]")  # Triton's Python knows no NumPy 2
SERVER = "nvidia-pytriton==0.7.0"
SIZES = ((640, 480), (480, 640), (300, 300), (1000, 120), (97, 401))
READY_S = 60
MOST_DIFFERENCE = 1e-5  # Triton writes six decimals
CLASS = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")
"""One class in what the client prints: bytes, as Python writes them."""


@dataclass(frozen=True, slots=True)
class Best:
    """One of the classes that an answer names, the best first."""

    logit: float
    index: int
    label: str


Answers = dict[str, tuple[list[Best], list[Best]]]
"""By the photo's name: what Triton said and what the bundle says."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("bundle", type=Path, help="a bundle for the processor")
    options.add_argument("photos", type=Path, nargs="*", help="JPEG files; without any, five are made")
    options.add_argument("--env", type=Path, default=Path(".triton-env"), help="where server and client are installed")
    given = options.parse_args()
    circumstances = read_circumstances()
    if (device := read_bundle(given.bundle).manifest.device) is not Device.CPU:
        raise EngineError(f"{given.bundle} is for the device {device.value}; give a bundle for cpu")
    python = environment_in(given.env)
    with tempfile.TemporaryDirectory() as name, googlenet_edge.load(given.bundle) as model:
        folder = Path(name)
        write_package(given.bundle, Recipient.TRITON, folder / "models")
        photos = given.photos or made_photos(folder)
        with serving(folder, python) as port:
            found = {each.name: (asked(each, folder, python, port), expected(each, model)) for each in photos}
    conclude(Result(figures_of(found), circumstances, found), given.out)


def environment_in(folder: Path) -> Path:
    """The interpreter of an environment with the server, its client and this package. Raises `EngineError`."""
    python, done = folder.absolute() / "bin" / "python", folder / "installed"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not done.is_file():
        shown(f"installing {SERVER} and its client in {folder}")
        succeed([sys.executable, "-m", "venv", "--clear", str(folder)])
        succeed([*pip, *WANTED, str(REPOSITORY)])
        succeed([*pip, "--no-deps", SERVER])
        done.touch()
    succeed([*pip, "--force-reinstall", "--no-deps", str(REPOSITORY)])
    return python


def succeed(command: list[str], cwd: Path | None = None) -> bytes:
    """What a program prints. Raises `EngineError` with its last words where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    if done.returncode:
        raise EngineError(f"{' '.join(command[:4])} … failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


def made_photos(folder: Path) -> list[Path]:
    """The same picture in several shapes."""
    picture, made = Image.open(io.BytesIO(generated_jpeg())), []
    for width, height in SIZES:
        made.append(folder / f"{width}x{height}.jpg")
        picture.resize((width, height)).save(made[-1], quality=90)
    return made


@contextmanager
def serving(folder: Path, python: Path) -> Iterator[int]:
    """Triton serves ``folder/models`` on a port, until the block ends. Raises `EngineError` where it does not start."""
    [packages] = (python.parents[1] / "lib").glob("python3*/site-packages")
    triton = packages / "pytriton" / "tritonserver"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / minor / "triton_python_backend_stub"
    if not stub.is_file():
        raise EngineError(f"{SERVER} has no backend for Python {minor}; use an older one, and another --env")
    python_backend, ours = folder / "backends" / "python", folder / "backends" / "onnxruntime"
    shutil.copytree(triton / "backends" / "python", python_backend)
    shutil.copy(stub, python_backend)
    ours.mkdir()
    shutil.copy(Path(__file__).with_name("triton_backend.py"), ours / "model.py")
    for program in (triton / "bin" / "tritonserver", python_backend / stub.name):
        program.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = int(probe.getsockname()[1])
    command = [
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{python.parent}:{os.environ['PATH']}",  # by which its Python backend finds its packages
    }
    log = folder / "log"
    with log.open("wb") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as server:
        try:
            wait_for(server, port, log)
            yield port
        finally:
            server.terminate()


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns when the model is ready. Raises `EngineError` with the end of the log where it is not within a minute."""
    end = time.monotonic() + READY_S
    while server.poll() is None and time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"http://localhost:{port}/v2/models/{NAME}/ready"):
            return
        time.sleep(0.2)
    raise EngineError(f"Triton does not serve the model: {log.read_text(errors='replace')[-600:]}")


def asked(photo: Path, folder: Path, python: Path, port: int) -> list[Best]:
    """What the client in the package's README prints for a photo. Raises `EngineError` where that is no answer."""
    text = (folder / "models" / README).read_text()
    client = textwrap.dedent(text[text.index("    from pathlib") :]).replace("localhost:8000", f"localhost:{port}")
    shutil.copy(photo, folder / "photo.jpg")
    printed = succeed([str(python), "-c", client], cwd=folder)
    return answer_in(printed.decode())


def answer_in(printed: str) -> list[Best]:
    """The classes in what the client prints. Raises `EngineError` where there are none."""
    classes = [ast.literal_eval(each).decode().split(":", 2) for each in CLASS.findall(printed)]
    if not classes:
        raise EngineError(f"the client got no classes: {printed[-300:]!r}")
    return [Best(float(logit), int(index), label) for logit, index, label in classes]


def expected(photo: Path, model: Predictor) -> list[Best]:
    """What the bundle itself says."""
    logits = model.logits([photo])[0]
    return [Best(float(logits[each.index]), each.index, each.label) for each in model.predict(photo)]


def figures_of(answers: Answers) -> tuple[Figure, ...]:
    """How far the two agree."""
    same = sum([b.index for b in a] == [b.index for b in e] for a, e in answers.values())
    names = sum([b.label for b in a] == [b.label for b in e] for a, e in answers.values())
    furthest = max(abs(a.logit - e.logit) for pair in answers.values() for a, e in zip(*pair, strict=False))
    photos = f"of {len(answers)} photos"
    return (
        Figure("the same classes in the same order", same, photos, least=len(answers)),
        Figure("with the same names", names, photos, least=len(answers)),
        Figure("the furthest of their logits", furthest, most=MOST_DIFFERENCE),
    )


if __name__ == "__main__":
    run(main)
