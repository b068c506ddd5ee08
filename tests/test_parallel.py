"""Two processes give what one gives, up to the order of additions."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import parallel_gradients
import pytest
import torch
from safetensors.torch import load_file

from googlenet_edge.errors import TrainingError
from googlenet_edge.parallel import BatchDropout, Rank, process_group
from googlenet_edge.pictograms import write_pictograms
from googlenet_edge.reports import read_lines


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What two processes left, and what each said."""
    work = tmp_path_factory.mktemp("two")
    write_pictograms(work / "photos", train_per_class=1, val_per_class=1, size=32)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, parallel_gradients.__file__]
    processes = [
        subprocess.Popen(
            [*program, str(index), port, str(work / "gradients.safetensors")], stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], errors
    return work, errors


def test_two_gloo_processes_give_the_gradients_of_one(two: tuple[Path, list[str]]) -> None:
    """All gradients and running statistics, with dropout and both auxiliary heads, to 1e-11 in float64."""
    one, found = parallel_gradients.gradients(Rank()), load_file(two[0] / "gradients.safetensors")
    assert one.keys() == found.keys()
    for name, expected in one.items():
        difference = (found[name] - expected).double().norm()
        assert difference <= 1e-11 * expected.double().norm(), name


def test_first_of_two_processes_tells_of_a_stop(two: tuple[Path, list[str]]) -> None:
    told = [[line for line in text.splitlines() if line.startswith("gnet-edge:")] for text in two[1]]
    assert told == [["gnet-edge: training stopped"], []], two[1]
    assert "Traceback" not in "".join(two[1]), two[1]


def test_two_processes_that_were_stopped_report_the_epoch_as_those_that_were_not(two: tuple[Path, list[str]]) -> None:
    (whole,), (stopped,) = (read_lines(two[0] / name / "metrics.jsonl") for name in ("whole", "stopped"))
    figures = [(line["loss"], line["train_top1"], line["val_top1"]) for line in (whole, stopped)]
    assert figures[1] == pytest.approx(figures[0])


def test_two_processes_that_are_at_different_steps_are_told_so(two: tuple[Path, list[str]]) -> None:
    sentence = (
        "processes would go on from different steps or with different images; give --data and --out on disks that all"
        " of them share"
    )
    assert [(two[0] / f"apart{index}").read_text() for index in range(2)] == [sentence, sentence]


def test_process_does_not_end_before_the_first_has_saved(two: tuple[Path, list[str]]) -> None:
    """Since torchrun ends all as soon as one has ended."""
    assert json.loads((two[0] / "told.json").read_text()) == 1


def test_process_group_is_one_process_where_a_cluster_sets_a_variable_of_torchrun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    with process_group() as rank:
        assert rank == Rank()


@pytest.mark.parametrize(("gpus", "here"), [(1, "1 GPU is"), (2, "2 GPUs are")])
def test_more_processes_than_gpus_are_refused(gpus: int, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RANK": "6", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "2"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    sentence = f"{here} here, and this is process 3 of this machine; give --nproc-per-node {gpus}"
    with pytest.raises(TrainingError, match=f"^{sentence}$"), process_group():
        pytest.fail("begun")


def test_dropout_masks_of_all_processes_are_the_rows_of_one_mask() -> None:
    ones = torch.ones(6, 50)

    def dropped(rank: Rank) -> torch.Tensor:
        rows = 6 // rank.world
        module = BatchDropout(0.4, rank, torch.Generator().manual_seed(2)).train()
        result: torch.Tensor = module(ones[rank.index * rows : (rank.index + 1) * rows])
        return result

    whole = dropped(Rank())
    assert torch.equal(torch.cat([dropped(Rank(i, 3)) for i in range(3)]), whole)
    assert set(whole.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}
    assert 0.3 < (whole == 0).double().mean() < 0.5
