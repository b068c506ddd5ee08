"""What a processor can do, from the text in which Linux describes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from googlenet_edge.processor import read_processor, usable_cores


@pytest.mark.parametrize(
    ("cpuinfo", "saturates", "bfloat16"),
    [
        ("processor : 0\nflags\t\t: fpu sse4_1 avx2 avx512f avx512_vnni avx512_bf16\n", False, True),
        ("processor : 0\nflags\t\t: fpu sse4_1 avx2 avx_vnni\n", False, False),
        ("processor : 0\nflags\t\t: fpu sse4_1 avx2 avx512f avx512bw\n", True, False),
        ("processor : 0\nFeatures\t: fp asimd asimddp bf16\n", False, True),
        ("processor : 0\nFeatures\t: fp asimd\n", False, False),
        ("", False, False),
    ],
)
def test_processor_is_read_from_its_description(tmp_path: Path, cpuinfo: str, saturates: bool, bfloat16: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    processor = read_processor(tmp_path / "cpuinfo")
    assert (processor.saturates_u8s8, processor.computes_bfloat16) == (saturates, bfloat16)


def test_processor_that_says_nothing_is_taken_for_one_that_does_not_saturate(tmp_path: Path) -> None:
    assert not read_processor(tmp_path / "missing").saturates_u8s8


@pytest.mark.parametrize(
    ("quota", "usable"),
    [
        ("400000 100000\n", 4),
        ("150000 100000\n", 2),
        ("5000 100000\n", 1),
        ("90000000 100000\n", 8),
        ("max 100000\n", 8),
        ("", 8),
        ("1 0\n", 8),
        (None, 8),
    ],
)
def test_container_with_less_processor_time_has_fewer_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, usable: int
) -> None:
    """Docker's ``--cpus 4`` leaves all eight cores visible, but not their time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max") == usable
