"""Where things are when nobody says: ``gnet-edge.toml`` in the working folder, and the newest results under ``runs/``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from googlenet_edge.errors import ConfigError

RUNS = Path("runs")
CHECKPOINT_FILE = "checkpoint.safetensors"
PRUNED_FILE = "pruned.safetensors"
GRAPH_FILE = "googlenet.onnx"
TABLE_FILE = "calibration.json"
MANIFEST_FILE = "manifest.json"
STATE_FILE = "training-state.safetensors"


def run_folder_for(data: Path, runs: Path = RUNS) -> Path:
    """The folder of a training on ``data``: one that was interrupted, else the first free of NAME, NAME-2, NAME-3 …"""
    name = data.resolve().name or "run"
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        if (folder / STATE_FILE).is_file() or not (folder / CHECKPOINT_FILE).exists():
            return folder
        number += 1


def newest_checkpoint(runs: Path = RUNS) -> Path:
    """The checkpoint that was written last. Raises `ConfigError` where there is none."""
    return _newest(runs.glob(f"*/{CHECKPOINT_FILE}"), "checkpoint", "train first with: gnet-edge train --data DIR", runs)


def newest_bundle(runs: Path = RUNS) -> Path:
    """The folder of the bundle that was written last. Raises `ConfigError` where there is none."""
    mend = "build one with: gnet-edge build --precision int8"
    return _newest(runs.glob(f"*/*/{MANIFEST_FILE}"), "bundle", mend, runs).parent


def _newest(found: Iterable[Path], what: str, mend: str, runs: Path) -> Path:
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        raise ConfigError(f"there is no {what} under {runs.resolve()}; {mend}")
    return newest
