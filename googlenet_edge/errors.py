"""The error tree. Every message says what, where, expected against found, and what to do next, in one line.

The command line prints the message of an `EdgeError` on stderr and exits with 1; any other exception is a bug.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EdgeError(Exception):
    """Base of all errors that a user can mend."""


class DataError(EdgeError):
    """A data folder or the images in it cannot be used."""


class DamagedImageError(DataError):
    """One file is no image, or is cut off, or is too large to be decoded safely."""


class ConfigError(EdgeError):
    """``gnet-edge.toml`` is wrong, or something that a command needs cannot be found."""


class CheckpointError(EdgeError):
    """A checkpoint is damaged, or of another architecture."""


class TrainingError(EdgeError):
    """Training cannot go on: the loss is not finite, or the saved state belongs to other settings."""


class GraphError(EdgeError):
    """An ONNX graph is damaged, or is not one that this package wrote, or differs from its checkpoint."""


class CalibrationError(EdgeError):
    """Calibration images or a calibration table cannot be used."""


class LoweringError(EdgeError):
    """A graph cannot be lowered for a device as it should be."""


class AccuracyError(EdgeError):
    """A lowered graph loses more accuracy than was allowed."""


class BundleError(EdgeError):
    """A bundle is damaged, of a newer schema, or made for something else."""


class EngineError(EdgeError):
    """A runtime is missing or failed, or was given a batch that does not fit."""


class OutputError(EdgeError):
    """A file or folder cannot be written."""


class RemoteError(EdgeError):
    """A device at the other end of an SSH connection cannot be reached, or failed over there."""


class RegressionError(EdgeError):
    """A measurement is worse than its baseline by more than was allowed."""


@contextmanager
def placed_by(place: str) -> Iterator[None]:
    """For work whose place ``--out`` does not name: what an error says to give instead of another ``--out``."""
    try:
        yield
    except EdgeError as problem:
        said = str(problem)
        mended = said.replace("another --out", place)
        if mended == said:
            raise
        raise type(problem)(mended) from problem


def why(problem: object) -> str:
    """The first line of what an error says."""
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)[:500]
