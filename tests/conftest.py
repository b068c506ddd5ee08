"""What several test files share: real data where it is there, and one small run of the whole flow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from googlenet_edge.pictograms import write_pictograms

SHARED = Path(__file__).parents[2] / "shared"

settings.register_profile("steady", deadline=None)  # a busy machine is no failure
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `realdata` are skipped where the folder beside the repository is not there."""
    if SHARED.is_dir():
        return
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason=f"{SHARED.name}/ is not beside the repository"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as a person has it after a training: ``photos/train``, ``photos/val`` and ``runs/``.

    One epoch on a few generated pictograms, by the real command. Tests that write take a copy.
    """
    folder = tmp_path_factory.mktemp("tiny_run")
    write_pictograms(folder / "photos", train_per_class=8, val_per_class=4, size=48)
    gnet_edge("train", "--data", "photos", "--epochs", "1", "--size", "64", cwd=folder)
    return folder


def gnet_edge(*arguments: str, cwd: Path) -> None:
    """Runs the real command."""
    command = [str(Path(sys.executable).with_name("gnet-edge")), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
