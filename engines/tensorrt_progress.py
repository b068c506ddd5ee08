"""How far TensorRT is with a build, where it tells: from version 9 on."""

from __future__ import annotations

from typing import Any

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.tensorrt_library import Library


def monitor_of(library: Library, progress: Progress) -> Any:
    """An ``IProgressMonitor`` that reports the steps of the outermost phase; None where there is no such class."""
    trt = library.trt
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # (a class of the module that is there when it runs)
        """Called by TensorRT, from any of its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost, self._steps = "", 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """A phase of so many steps; the outermost has no parent."""
            if parent is None:
                self._outermost, self._steps = phase, steps

        def step_complete(self, phase: str, step: int) -> bool:
            """True for: go on."""
            if phase == self._outermost:
                progress(min(step + 1, self._steps), self._steps)
            return True

        def phase_finish(self, phase: str) -> None:
            """It may end before its last step."""
            if phase == self._outermost:
                progress(self._steps, self._steps)

    return Monitor()
