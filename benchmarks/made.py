"""Networks and images that need no training and no download, for benchmarks of time and memory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo
from googlenet_edge.console import bar
from googlenet_edge.dataset import ImageSet, load_pixels, open_dataset, stratified_sample
from googlenet_edge.engines.bundle import Bundle, Golden, Lineage, Manifest, write_bundle
from googlenet_edge.engines.lowering import Lowered, lower, open_lowered
from googlenet_edge.engines.protocol import Engine, EngineOptions
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.engines.trials import fastest
from googlenet_edge.export import export
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig
from googlenet_edge.pictograms import CLASS_NAMES, write_pictograms
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, Precision

SEED = 0
_GOLDEN_IMAGES = 2  # as `gnet-edge build` stores


def made_graph(*, classes: int, size: int) -> InferenceGraph:
    """A GoogLeNet of random weights scaled so that activations keep their size (He et al., arXiv 1502.01852)."""
    torch.manual_seed(SEED)
    model = GoogLeNet(GoogLeNetConfig(classes))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    names = tuple(f"class {i}" for i in range(classes))
    info = CheckpointInfo(names, Preprocess(resize=round(size * 8 / 7), crop=size))
    return export(Checkpoint(info, model.state_dict()))


def generated_images(folder: Path, *, count: int, size: int) -> ImageSet:
    """``count`` pictograms of about ``size`` × ``size`` pixels and more."""
    with bar("drawing pictograms") as progress:
        write_pictograms(
            folder,
            train_per_class=math.ceil(count / len(CLASS_NAMES)),
            val_per_class=1,
            size=round(size * 8 / 7),
            seed=SEED,
            progress=progress,
        )
    return stratified_sample(open_dataset(folder).train, count, seed=SEED)


def opened(lowered: Lowered, threads: int) -> Engine:
    """A lowered model, open on this machine's processor."""
    options = EngineOptions(threads=threads, weight_bits=lowered.weight_bits)
    return backend_for(Device.CPU).open(lowered.model, options)


def write_made_bundle(
    path: Path, graph: InferenceGraph, *, precision: Precision, table: CalibrationTable, images: ImageSet
) -> None:
    """Writes the bundle that `gnet-edge build` would write, but for the accuracy, which random weights have not."""
    lowered = lower(graph, device=Device.CPU, precision=precision, table=table)
    if precision is Precision.INT8:
        lowered = fastest(lowered, lambda candidate: opened(candidate, threads=1))
    pixels = np.stack(list(load_pixels(images.take(range(_GOLDEN_IMAGES)), graph.preprocess)))
    with open_lowered(graph, lowered, backend=backend_for(Device.CPU)) as predictor:
        golden = Golden(pixels, predictor.run(pixels))
    manifest = Manifest(
        precision,
        Device.CPU,
        graph.preprocess,
        Lineage(graph=graph.sha256),
        weight_bits=lowered.weight_bits,
        notes=lowered.notes,
        rewrites=lowered.rewrites,
    )
    write_bundle(path, Bundle(manifest, graph.class_names, lowered.model, golden))
