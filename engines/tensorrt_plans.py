"""Plans on disk: the raw file as TensorRT wants it, and beside it all that says whether it may be loaded here.

    engine.plan     raw: anything in front of it breaks other loaders
    plan.json       the key that it was built for, its size and SHA-256
    layers.json     what TensorRT made of the graph
    kernels-….cache what TensorRT for RTX compiled for the GPU while it ran the plan, behind its SHA-256

Beside the folders of all plans, ``timing-….cache`` is what TensorRT learned about kernels on this GPU, whichever model
it was building: the next one takes it up.

A plan runs only on the TensorRT and the GPU that built it. So the key is compared before the plan is touched.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from googlenet_edge import __version__
from googlenet_edge.dataset import Progress
from googlenet_edge.engines.tensorrt_builder import Plan, PlanKey, PlanRequest, build_plan, key_of
from googlenet_edge.engines.tensorrt_layers import Placement
from googlenet_edge.engines.tensorrt_library import Flavour, Library, errors_in, listening
from googlenet_edge.errors import BundleError, EngineError, OutputError
from googlenet_edge.files import (
    check_writable,
    from_versioned_json,
    new_folder,
    read_file,
    sha256_bytes,
    write_bytes,
    write_json,
)

SCHEMA = 1
PLAN = "engine.plan"
RECORD = "plan.json"
LAYERS = "layers.json"
_MAX_PLAN_BYTES = 1 << 30
_MAX_RECORD_BYTES = 1 << 16
_MAX_CACHE_BYTES = 256 << 20
_AGAIN = "open the bundle here, and it is built again"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What stands in ``plan.json``."""

    key: PlanKey
    size: int
    sha256: str
    placement: Placement
    seconds: float
    tool_version: str = __version__
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, eq=False)
class StoredPlan:
    """A plan that was read back, or just written in ``folder``."""

    folder: Path
    record: PlanRecord
    data: bytes = field(repr=False)
    reused: bool


def write_plan(folder: Path, plan: Plan) -> StoredPlan:
    """Writes a plan in one step, in the place of an older one. Raises `OutputError`."""
    stored = _stored(folder, plan)
    with new_folder(folder) as place:
        write_bytes(place / PLAN, plan.data)
        write_json(place / LAYERS, plan.layers)
        write_json(place / RECORD, stored.record)
    if plan.timing_cache:
        with suppress(OutputError):  # the next build is slower, no more
            write_bytes(timing_file(folder, gpu=plan.key.gpu), plan.timing_cache)
    return stored


def _stored(folder: Path, plan: Plan) -> StoredPlan:
    record = PlanRecord(plan.key, len(plan.data), sha256_bytes(plan.data), plan.placement, plan.seconds)
    return StoredPlan(folder, record, plan.data, reused=False)


def check_kept(folder: Path) -> None:
    """Raises `OutputError` where what is compiled cannot be kept."""
    try:
        check_writable(folder)
    except OutputError as problem:
        raise OutputError(f"{str(problem).rpartition(';')[0]}; set XDG_CACHE_HOME to a writable place") from problem


def read_plan(folder: Path, key: PlanKey) -> StoredPlan:
    """Reads a plan that was built for a key.

    Raises:
        BundleError: there is none, it is damaged, or it was built for something else: the message names both sides.
    """
    data = read_file(folder / RECORD, limit=_MAX_RECORD_BYTES, error=BundleError)
    record = from_versioned_json(data, PlanRecord, schema=SCHEMA, where=str(folder / RECORD), error=BundleError)
    if different := differences(record.key, key):
        raise BundleError(f"{folder / PLAN} was built for something else: {'; '.join(different)}; {_AGAIN}")
    plan = read_file(folder / PLAN, limit=_MAX_PLAN_BYTES, error=BundleError)
    if (len(plan), sha256_bytes(plan)) != (record.size, record.sha256):
        raise BundleError(
            f"{folder / PLAN} is cut off or was changed: {len(plan)} bytes where {record.size} were written; {_AGAIN}"
        )
    return StoredPlan(folder, record, plan, reused=True)


def remove_plan(plan: StoredPlan) -> None:
    """Forgets a plan, as far as its folder can be removed."""
    shutil.rmtree(plan.folder, ignore_errors=True)


def plan_at(
    folder: Path,
    library: Library,
    request: PlanRequest,
    *,
    gpu: str,
    build: bool = True,
    progress: Progress | None = None,
) -> StoredPlan:
    """The plan that is there, where its key fits; else, where ``build`` allows it, a new one, built and written.

    Raises:
        EngineError: see `build_plan`; or it would have to be built.
        OutputError: the folder cannot be written, which is known before anything is compiled.
    """
    try:
        return read_plan(folder, key_of(library, request, gpu=gpu))
    except BundleError as reason:
        if not build:
            raise EngineError(
                f"the bundle is not compiled for this device yet ({reason}); compile it with: gnet-edge build BUNDLE"
            ) from reason
        if folder.exists():
            _log.info("%s", reason)
    check_kept(folder)
    _log.info("%s compiles the model: minutes, once; kept in %s", library, folder)
    plan = build_plan(library, request, gpu=gpu, timing_cache=_timing_cache(folder, gpu), progress=progress)
    try:
        return write_plan(folder, plan)
    except OutputError as problem:  # after minutes, and what was compiled is as good
        _log.warning("the plan is not kept, and next time compiled again: %s", str(problem).partition(";")[0])
        return _stored(folder, plan)


def differences(found: PlanKey, wanted: PlanKey) -> tuple[str, ...]:
    """One clause for each part of two keys that differs, such as "library tensorrt 8.5.2, not tensorrt 10.3.0"."""
    both = ((each.name, getattr(found, each.name), getattr(wanted, each.name)) for each in fields(PlanKey))
    return tuple(f"{name.replace('_', ' ')} {_said(a)}, not {_said(b)}" for name, a, b in both if a != b)


def _said(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return (value[:12] if len(value) == 64 else value or "none") if isinstance(value, str) else str(value)


def timing_file(folder: Path, *, gpu: str) -> Path:
    """Where what was learned on a GPU is kept, beside the folder of a plan for it."""
    return folder.parent / f"timing-{sha256_bytes(gpu.encode())[:16]}.cache"


def _timing_cache(folder: Path, gpu: str) -> bytes:
    """What an earlier build left, if only of another model; TensorRT itself checks whether it fits."""
    try:
        return read_file(timing_file(folder, gpu=gpu), limit=_MAX_CACHE_BYTES, error=BundleError)
    except BundleError:
        return b""


class Contexts:
    """Makes execution contexts of a plan, and lives longer than they do. The device is current in every call.

    For TensorRT for RTX the kernels that it compiles, when a context is made and while it runs, are kept for the next
    process. TensorRT itself looks whether they fit: its version, the GPU, the driver.
    """

    def __init__(self, engine: Any, plan: StoredPlan, library: Library) -> None:
        self._engine, self._flavour = engine, library.flavour
        if library.flavour is Flavour.RTX:
            self._path = plan.folder / f"kernels-{plan.record.sha256[:16]}.cache"
            self._config = runtime_config = engine.create_runtime_config()
            self._kernels = kernels = runtime_config.create_runtime_cache()
            self._kept = _filled(kernels, self._path, library) if self._path.exists() else b""
            runtime_config.set_runtime_cache(kernels)

    def new(self) -> Any:
        """An ``IExecutionContext``; None where the GPU has no memory for it."""
        engine = self._engine
        if self._flavour is Flavour.RTX:
            return engine.create_execution_context(self._config)
        return engine.create_execution_context()

    def keep_kernels(self) -> None:
        """Writes kernels, as far as some are new and can be written. Nothing runs meanwhile."""
        if self._flavour is Flavour.RTX:
            kernels = self._kernels
            written = kernels.serialize()
            data = b"" if written is None else bytes(written)
            if data not in (b"", self._kept):
                with suppress(OutputError):  # the next process compiles them once more, no worse
                    write_bytes(self._path, sha256_bytes(data).encode() + data)


def _filled(kernels: Any, path: Path, library: Library) -> bytes:
    """What was kept, and is in ``kernels`` now; nothing where it is damaged or does not fit: then it is removed."""
    data, problem = b"", f"{path} is cut off or was changed"
    try:
        data = read_file(path, limit=_MAX_CACHE_BYTES, error=BundleError)
    except BundleError as unread:
        problem = str(unread)
    digest, kept = data[:64], data[64:]
    if sha256_bytes(kept).encode() == digest:
        with listening(library) as lines:
            if kernels.deserialize(kept):
                return kept
        problem = f"{path} does not fit here ({errors_in(lines)})"
    _log.warning("%s; %s compiles the kernels once more", problem, library)
    with suppress(OSError):
        path.unlink()
    return b""
