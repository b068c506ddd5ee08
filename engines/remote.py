"""Measuring on a device at the other end of an SSH connection.

Bundles, image and the wheel of this package go over, as far as they are not there already; the agent makes an
environment, runs the measurement and sends it back (`engines/remote_agent.py`). All of it stays in one folder there.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from googlenet_edge.dataset import Bars, Progress
from googlenet_edge.engines import remote_link
from googlenet_edge.engines.bench import check_bundles, generated_jpeg
from googlenet_edge.engines.bundle import MANIFEST, MODEL, Manifest, read_bundle
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.measurement import Measurement, parse_measurement
from googlenet_edge.engines.registry import GPU_PROVIDERS
from googlenet_edge.engines.remote_link import EventKind, Link, connect
from googlenet_edge.engines.remote_worker import RemotePlan, Request
from googlenet_edge.engines.report.material import check_measurement
from googlenet_edge.engines.ssh import Host, printable
from googlenet_edge.engines.sustained import signals_to
from googlenet_edge.engines.wheel import Wheel, pack_wheel
from googlenet_edge.errors import ConfigError, RemoteError
from googlenet_edge.files import encodable_text, sha256_bytes
from googlenet_edge.target import Device, EngineName

SYSTEM_PYTHON = "python3"
_IMAGE = "image"
_PIECE = 1 << 18
_PATIENCE_S = 15.0  # for setting clocks back
_BY_PROVIDER = {each.engine for each in GPU_PROVIDERS}


@dataclass(frozen=True, slots=True)
class Remote:
    """Where to measure, and with what.

    ``python`` is an interpreter over there that has what the package needs, and is used as it is; without one, an
    environment is made from its ``python3``. ``keep``: what the next run needs stays there.
    """

    host: Host
    python: str | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if self.python is not None and (not self.python.isprintable() or self.python[:1] in ("", "-")):
            raise ConfigError(f"{self.python!r} is no Python; give --python the path of one on the device")


@dataclass(frozen=True, slots=True)
class MeasuredThere:
    """A measurement, and how much had to be copied for it."""

    measurement: Measurement
    copied_files: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class Cargo:
    """What has to be over there: files by their SHA-256, and where they stand in the working folder."""

    files: dict[str, bytes] = field(repr=False)
    layout: dict[str, str]
    manifests: tuple[Manifest, ...]
    wheel: str


def bench_there(
    paths: Sequence[Path],
    remote: Remote,
    *,
    plan: RemotePlan,
    image: bytes | None = None,
    bars: Bars,
    so_far: Callable[[Measurement], None] | None = None,
) -> MeasuredThere:
    """Measures bundles on a device. Leaves nothing running there, and keeps or removes the files as asked.

    Args:
        image: as for `bench`; the generated one is made here, so that all devices get the same bytes.
        bars: makes the progress bar of a step.
        so_far: as for `bench`. Where the device falls silent, or the measurement is killed there, the last of them is
            the result, with a warning that says why.

    Raises:
        BundleError: a bundle is damaged.
        ConfigError: see `check_bundles`; no ssh here; an engine that no environment can be made for.
        RemoteError: no connection or no Python, or anything that goes wrong over there.
    """
    check_bundles(paths, plan.rounds)
    if plan.engine in _BY_PROVIDER and remote.python is None:
        raise ConfigError(
            f"--engine {plan.engine.value} needs an environment with ONNX Runtime for GPUs; pip would lay the one for"
            f" processors over it. Name that environment's interpreter on {remote.host} with --python"
        )
    cargo = load_cargo(paths, generated_jpeg() if image is None else image, pack_wheel())
    with ExitStack() as stack:
        with bars(f"connecting to {remote.host}"):
            link = stack.enter_context(connect(remote.host, python=remote.python or SYSTEM_PYTHON))
        link.send("job", facts=_job(paths, remote, plan, cargo))
        missing = _missing(link, cargo, remote.host)
        with bars(f"copying to {remote.host}") as progress:
            _send_files(link, missing, progress)

        def checked(data: bytes) -> Measurement:
            return _checked(data, paths, cargo, remote.host)

        measurement = _brought_home(link, remote.host, checked=checked, bars=bars, so_far=so_far)
    return MeasuredThere(measurement, len(missing), sum(map(len, missing)))


def load_cargo(paths: Sequence[Path], image: bytes, wheel: Wheel) -> Cargo:
    """Reads and verifies the bundles. Raises `BundleError`."""
    placed, manifests = {_IMAGE: image, wheel.name: wheel.data}, []
    for number, path in enumerate(paths):
        manifest = read_bundle(path).manifest
        manifests.append(manifest)
        for name in (*manifest.files, MANIFEST):
            placed[f"{_folder(number)}/{name}"] = (path / name).read_bytes()
    layout = {place: sha256_bytes(data) for place, data in placed.items()}
    return Cargo({layout[place]: data for place, data in placed.items()}, layout, tuple(manifests), wheel.name)


def _folder(number: int) -> str:
    return f"bundles/{number:03}"


def _job(paths: Sequence[Path], remote: Remote, plan: RemotePlan, cargo: Cargo) -> dict[str, object]:
    request = Request(
        bundles=tuple(_folder(number) for number in range(len(paths))),
        names=tuple(encodable_text(str(path)) for path in paths),
        image=_IMAGE,
        plan=plan,
    )
    return {
        "files": {digest: len(data) for digest, data in cargo.files.items()},
        "layout": cargo.layout,
        "wheel": cargo.wheel,
        "extras": sorted({extra for manifest in cargo.manifests for extra in _extras(manifest, plan.engine)}),
        "packages": sorted({package for manifest in cargo.manifests for package in _packages(manifest, plan.engine)}),
        "environment": "given" if remote.python else "made",
        "keep": remote.keep,
        "request": msgspec.to_builtins(request),
        "patience_s": _PATIENCE_S,
        "alive_s": remote_link.ALIVE_S,
        "silence_s": remote_link.SILENCE_S,
    }


def _extras(manifest: Manifest, engine: EngineName | None) -> Iterator[str]:
    """The extras of the package that run a bundle."""
    if (engine or manifest.engine) is EngineName.OPENVINO:
        yield "openvino"
    if manifest.device is Device.RTX:
        yield "rtx"


def _packages(manifest: Manifest, engine: EngineName | None) -> Iterator[str]:
    """What it needs that is no extra; TensorRT itself comes with the system."""
    if profile_of(manifest.device).has_tensorrt and engine not in _BY_PROVIDER:
        yield "pycuda"


def _missing(link: Link, cargo: Cargo, host: Host) -> list[bytes]:
    wanted = link.expect(EventKind.MISSING).files
    if not set(wanted) <= set(cargo.files):
        raise RemoteError(f"{host} asks for files that it was not offered; is its googlenet-edge damaged?")
    return [cargo.files[digest] for digest in wanted]


def _send_files(link: Link, files: Sequence[bytes], progress: Progress) -> None:
    """In the order in which they were asked for."""
    done, total = 0, sum(map(len, files))
    for data in files:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            link.send("piece", payload=piece)
            done += len(piece)
            progress(done, total)


@contextmanager
def _stopped_by_signals(link: Link) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP stop the link; the second of them interrupts.

    Raises:
        KeyboardInterrupt: also where the link was stopped before there was anything to keep.
    """

    def stop(*_: object) -> None:
        if link.stopping:
            raise KeyboardInterrupt
        link.stop()

    try:
        with signals_to(stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    except RemoteError as problem:
        if link.stopping:
            raise KeyboardInterrupt from problem
        raise


def _brought_home(
    link: Link,
    host: Host,
    *,
    checked: Callable[[bytes], Measurement],
    bars: Bars,
    so_far: Callable[[Measurement], None] | None,
) -> Measurement:
    """The result, or else the last of what was told before it, with a warning that says why there is no more."""
    known: Measurement | None = None

    def keep(data: bytes) -> None:
        nonlocal known
        known = checked(data)
        if so_far:
            so_far(known)

    done = "the measurement came home incomplete"
    try:
        with _stopped_by_signals(link):
            data = _watch(link, host, bars, keep)
        known, done = checked(data), f"{host} was left before it had cleaned up"
        with bars(f"cleaning up on {host}"):
            link.expect(EventKind.DONE)
    except (RemoteError, KeyboardInterrupt) as problem:
        if known is None:
            raise
        return replace(known, warnings=(*known.warnings, f"{done}: {str(problem) or 'interrupted'}"))
    return known


def _watch(link: Link, host: Host, bars: Bars, keep: Callable[[bytes], None]) -> bytes:
    """Shows the steps, each with a bar, until the result is there; what comes before it is to ``keep``."""
    step = ""
    while True:
        with bars(f"{step or 'preparing'} on {host}") as progress:
            event = link.event()
            while event.event in (EventKind.PROGRESS, EventKind.SO_FAR):
                if event.event is EventKind.SO_FAR:
                    keep(link.payload(event))
                else:
                    progress(event.done, event.total)
                event = link.event()
        if event.event is EventKind.RESULT:
            return link.payload(event)
        step = printable(event.message)[:40]


def _checked(data: bytes, paths: Sequence[Path], cargo: Cargo, host: Host) -> Measurement:
    """The measurement, which must be one of these bundles."""
    measurement = parse_measurement(data, f"the measurement of {host}")
    check_measurement(measurement, f"the measurement of {host}")
    measured = [(bundle.name, bundle.model_sha256) for bundle in measurement.bundles]
    sent = [(encodable_text(str(path)), m.files[MODEL].sha256) for path, m in zip(paths, cargo.manifests, strict=True)]
    if measured != sent:
        raise RemoteError(f"{host} sent a measurement of something else; is its googlenet-edge damaged?")
    return measurement
