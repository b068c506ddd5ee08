"""The execution contexts of a plan; for TensorRT for RTX with the kernels that it compiled, kept for the next process.

It compiles them for the GPU at hand when a context is made and while it runs, into an ``IRuntimeCache``. That is a file
beside the plan: the SHA-256 of what follows, and what TensorRT wrote. TensorRT itself looks whether they fit (its own
version, the GPU, the driver). What does not is compiled once more.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from googlenet_edge.engines.tensorrt_library import Flavour, Library, errors_in, listening
from googlenet_edge.engines.tensorrt_plans import StoredPlan
from googlenet_edge.errors import BundleError, OutputError
from googlenet_edge.files import read_file, sha256_bytes, write_bytes

_MAX_BYTES = 256 << 20
_DIGEST = 64

_log = logging.getLogger(__name__)


class Contexts:
    """Makes them, and must live longer than they do. The device is current in every call."""

    def __init__(self, engine: Any, plan: StoredPlan, library: Library) -> None:
        self._engine, self._flavour = engine, library.flavour
        if library.flavour is Flavour.RTX:
            self._path = plan.folder / f"kernels-{plan.record.sha256[:16]}.cache"
            self._config = runtime_config = engine.create_runtime_config()
            self._kernels = kernels = runtime_config.create_runtime_cache()
            self._kept = _read(self._path)
            with listening(library) as lines:
                if self._kept and not kernels.deserialize(self._kept):
                    _drop(self._path, f"do not fit here ({errors_in(lines)})")
            runtime_config.set_runtime_cache(kernels)

    def new(self) -> Any:
        """An ``IExecutionContext``; None where the GPU has no memory for it."""
        engine = self._engine
        if self._flavour is Flavour.RTX:
            return engine.create_execution_context(self._config)
        return engine.create_execution_context()

    def keep_kernels(self) -> None:
        """Writes those of TensorRT for RTX, as far as some are new and can be written. Nothing runs meanwhile."""
        if self._flavour is Flavour.RTX:
            kernels = self._kernels
            written = kernels.serialize()
            data = b"" if written is None else bytes(written)
            if data not in (b"", self._kept):
                with suppress(OutputError):  # the next process compiles them once more, no worse
                    write_bytes(self._path, sha256_bytes(data).encode() + data)


def _read(path: Path) -> bytes:
    """What was kept; nothing where there is nothing, or it is damaged."""
    if not path.exists():
        return b""
    try:
        data = read_file(path, limit=_MAX_BYTES, error=BundleError)
    except BundleError as problem:
        _drop(path, f"cannot be read ({problem})")
        return b""
    if sha256_bytes(data[_DIGEST:]).encode() != data[:_DIGEST]:
        _drop(path, "are cut off or were changed")
        return b""
    return data[_DIGEST:]


def _drop(path: Path, why: str) -> None:
    _log.warning("the kernels in %s %s: TensorRT for RTX compiles them once more", path, why)
    with suppress(OSError):
        path.unlink()
