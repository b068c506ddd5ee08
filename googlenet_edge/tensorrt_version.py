"""Versions of TensorRT, as they stand in calibration caches. Needed where a cache is made and where it is read."""

from __future__ import annotations

Version = tuple[int, ...]
"""Major, minor and patch, such as ``(8, 5, 2)``."""

_KIND = "EntropyCalibration2"


def cache_header(version: Version) -> str:
    """The first line of a calibration cache for a TensorRT that reads one: 8 to 10."""
    major, minor, patch = (*version, 0, 0)[:3]
    number = major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
    return f"TRT-{number}-{_KIND}"


def cache_for(version: Version, cache: bytes) -> bytes:
    """A calibration cache with the header that another version writes: the scales are the same in all of them."""
    _, _, lines = cache.partition(b"\n")
    return b"\n".join([cache_header(version).encode(), lines])
