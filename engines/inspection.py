"""What is inside a file or folder that this package wrote, as names and values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from msgspec import Raw

from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.errors import DataError
from googlenet_edge.files import from_json, read_file
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import EngineName, Unit

Facts = dict[str, str]
_KINDS = "a bundle's folder, .safetensors, .onnx or a calibration table"


def inspect(path: Path) -> Facts:
    """The facts of a bundle, checkpoint, graph or calibration table; reading it verifies it.

    Raises:
        DataError: it is missing, or none of these.
        BundleError, CheckpointError, GraphError, CalibrationError: it is damaged, or of a newer version.
    """
    if path.is_dir():
        return _bundle(path)
    if not path.exists():
        raise DataError(f"{path} is missing; gnet-edge inspect without a path shows the newest bundle")
    if path.suffix not in _READERS:
        raise DataError(f"{path} is not what is shown here; give {_KINDS}")
    return _READERS[path.suffix](path)


def _bundle(path: Path) -> Facts:
    bundle = read_bundle(path)
    manifest = bundle.manifest
    facts = {
        "kind": "bundle",
        "precision": manifest.precision.value,
        "device": f"{manifest.device.value}{', on its DLA' if manifest.unit is Unit.DLA else ''}",
        "engine": manifest.engine.value,
        "classes": _classes(bundle.class_names),
        "preprocess": _preprocess(manifest.preprocess),
        "size": f"{sum(file.stat().st_size for file in path.iterdir()) / 1e6:.2f} MB",
        "written by": f"googlenet-edge {manifest.tool_version}",
    }
    if manifest.accuracy:
        simulated = ", simulated" if manifest.engine is EngineName.SIMULATED else ""
        facts["top-1"] = f"{manifest.accuracy.top1:.2%} of {manifest.accuracy.images} images{simulated}"
    if manifest.against_fp32:
        facts["against fp32"] = f"{manifest.against_fp32.top1_change_points:+.2f} points of top-1"
    if manifest.float_layers:
        facts["in float"] = ", ".join(manifest.float_layers)
    for trial in manifest.engine_trials:
        facts[f"tried {trial.engine.value}"] = f"p50 {trial.p50_ms:.2f} ms, {trial.verdict.value}"
    lineage = manifest.lineage
    for name, sha256 in (
        ("checkpoint", lineage.checkpoint),
        ("graph", lineage.graph),
        ("calibration", lineage.calibration),
        ("validation images", lineage.dataset),
    ):
        facts[name] = sha256[:12] if sha256 else "none"
    return facts | {f"note {i}": note for i, note in enumerate(manifest.notes, start=1)}


def _checkpoint(path: Path) -> Facts:
    from googlenet_edge.checkpoint import read_checkpoint  # noqa: PLC0415  (torch, only where it is needed)
    from googlenet_edge.model import Widths  # noqa: PLC0415
    from googlenet_edge.slim import convolution_widths, stage_of  # noqa: PLC0415

    checkpoint = read_checkpoint(path)
    info = checkpoint.info
    facts = {
        "kind": "checkpoint",
        "classes": _classes(info.class_names),
        "preprocess": _preprocess(info.preprocess),
        "auxiliary heads": "yes" if info.aux_heads else "pruned",
        "third branch": "5×5" if info.true_5x5 else "3×3",
        "parameters": f"{sum(t.numel() for t in checkpoint.weights.values() if t.is_floating_point()):,}",
        "sha256": checkpoint.sha256,
    }
    if info.widths != Widths():
        stages: dict[str, list[str]] = {}  # in the order of the columns of the paper's table 1
        for convolution, width in convolution_widths(info.widths).items():
            stages.setdefault(stage_of(convolution), []).append(str(width))
        facts |= {f"widths of {stage}": ", ".join(counts) for stage, counts in stages.items()}
    if record := info.training:
        facts["training"] = f"{record.epochs} epochs of {record.images} images in {record.seconds:.0f} s"
        facts["top-1"] = f"{record.val_top1:.2%}"
        if record.parent_sha256:
            facts["began with the weights of"] = record.parent_sha256
    return facts


def _graph(path: Path) -> Facts:
    from googlenet_edge.graph import read_graph  # noqa: PLC0415  (onnx, only where it is needed)

    graph = read_graph(path)
    nodes = Counter(node.op_type for node in graph.model.graph.node)
    return {
        "kind": "inference graph",
        "opset": str(graph.model.opset_import[0].version),
        "classes": _classes(graph.class_names),
        "preprocess": _preprocess(graph.preprocess),
        "nodes": ", ".join(f"{count} {kind}" for kind, count in nodes.most_common()),
        "sha256": graph.sha256,
        "made from": graph.parent_sha256,
    }


def _table(path: Path) -> Facts:
    from googlenet_edge.calibration.table import MAX_BYTES, read_table  # noqa: PLC0415  (onnx, only where needed)

    found = from_json(
        read_file(path, limit=MAX_BYTES, error=DataError), dict[str, Raw], where=str(path), error=DataError
    )
    if "graph_sha256" not in found:
        is_result = found.keys() & {"bundles", "circumstances"}
        mend = f"results are shown by: gnet-edge report {path}" if is_result else f"give {_KINDS}"
        raise DataError(f"{path} is no calibration table; {mend}")
    table = read_table(path)
    facts = {
        "kind": "calibration table",
        "method": table.method.value,
        "images": str(table.image_count),
        "preprocess": _preprocess(table.preprocess),
        "graph": table.graph_sha256,
    }
    if table.choice:
        facts["choice"] = str(table.choice)
    return facts | {f"range of {name}": f"{t.low:.4g} to {t.high:.4g}" for name, t in table.tensors.items()}


_READERS = {".safetensors": _checkpoint, ".onnx": _graph, ".json": _table}


def _classes(names: tuple[str, ...]) -> str:
    more = f", … ({len(names)})" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _preprocess(preprocess: Preprocess) -> str:
    mean, std = list(preprocess.mean), list(preprocess.std)
    return f"short side {preprocess.resize}, crop {preprocess.crop}, (x - {mean}) / {std}"
