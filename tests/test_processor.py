"""What a processor can do, from the text in which Linux describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from googlenet_edge.processor import read_processor


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
