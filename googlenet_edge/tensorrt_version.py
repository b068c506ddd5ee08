"""Versions of TensorRT, as they stand in calibration caches. Needed where a cache is made and where it is read."""

from __future__ import annotations

from googlenet_edge.errors import CalibrationError

Version = tuple[int, ...]
"""Major, minor and patch, such as ``(8, 5, 2)``."""

_KIND = "EntropyCalibration2"


def cache_header(version: Version) -> str:
    """The first line of a calibration cache. Raises `CalibrationError` for versions that read none."""
    major, minor, patch = (*version, 0, 0)[:3]
    if not 8 <= major <= 10:
        raise CalibrationError(
            f"TensorRT {major}.{minor} reads no calibration cache, only 8 to 10 do; build with explicit pairs instead"
        )
    number = major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
    return f"TRT-{number}-{_KIND}"


def cache_for(version: Version, cache: bytes) -> bytes:
    """A calibration cache with the header that another version writes: the scales are the same in all of them.

    Raises:
        CalibrationError: it is no calibration cache, or this version reads none.
    """
    first, _, lines = cache.partition(b"\n")
    if not (first.startswith(b"TRT-") and first.endswith(f"-{_KIND}".encode()) and lines):
        raise CalibrationError("the calibration cache has no TRT-…-EntropyCalibration2 header; build the bundle again")
    return b"\n".join([cache_header(version).encode(), lines])
