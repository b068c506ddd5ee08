"""The exported graph computes what PyTorch computes, under names that stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import NARROW, made_checkpoint, normalized_noise

from googlenet_edge.checkpoint import TrainingRecord, build_model, write_checkpoint
from googlenet_edge.dataset import Checked, ImageSet
from googlenet_edge.engines.checkpoint_source import CheckpointSource
from googlenet_edge.errors import GraphError
from googlenet_edge.export import check_parity, export
from googlenet_edge.graph import read_graph, write_graph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.training_loop import MAYBE_SEEN


@pytest.mark.parametrize("true_5x5", [False, True])
def test_export_gives_the_logits_of_pytorch_for_any_batch(true_5x5: bool) -> None:
    checkpoint = made_checkpoint(classes=5, crop=64, true_5x5=true_5x5)
    session = onnxruntime.InferenceSession(export(checkpoint).bytes, providers=["CPUExecutionProvider"])
    model = build_model(checkpoint)
    for size in (1, 3):
        images = normalized_noise(size, 3, 64, 64)
        with torch.inference_mode():
            expected = model(torch.from_numpy(images)).numpy()
        (found,) = session.run(None, {"images": images})
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("opset", [13, 17])
def test_export_writes_the_operators_that_devices_fuse(opset: int) -> None:
    model = export(made_checkpoint(), opset=opset).model
    kinds = [node.op_type for node in model.graph.node]
    assert model.opset_import[0].version == opset
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "Conv": 57, "Relu": 57, "MaxPool": 13, "Concat": 9, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    onnx.checker.check_model(model, full_check=True)


def test_export_names_tensors_after_modules() -> None:
    graph = export(made_checkpoint()).model.graph
    tensors = {output for node in graph.node for output in node.output}
    assert {"conv1", "maxpool4", "inception3a", "inception3a.branch2.0", "inception5b.branch4.1", "avgpool"} <= tensors
    assert {"conv1.conv.weight", "inception4e.branch3.1.conv.bias", "fc.weight"} <= {w.name for w in graph.initializer}
    assert not any("aux" in w.name for w in graph.initializer)


def test_export_is_the_same_file_for_the_same_checkpoint() -> None:
    assert export(made_checkpoint()).sha256 == export(made_checkpoint()).sha256


def test_export_refuses_other_opsets() -> None:
    with pytest.raises(GraphError, match="opset 16 is not supported; use 17, or 13 for TensorRT up to 8.2"):
        export(made_checkpoint(), opset=16)


def test_parity_fails_where_a_weight_differs() -> None:
    checkpoint = made_checkpoint()
    weights = dict(checkpoint.weights)
    weights["inception4c.branch1.bn.running_mean"] = weights["inception4c.branch1.bn.running_mean"] + 0.01
    graph = export(replace(checkpoint, weights=weights))
    with pytest.raises(GraphError, match="differs from PyTorch by .* of the largest logit, at most 1e-04 is allowed"):
        check_parity(graph, checkpoint, normalized_noise(2, 3, 32, 32))


def test_parity_fails_where_a_logit_is_no_number() -> None:
    checkpoint = made_checkpoint()
    weights = {**checkpoint.weights, "fc.bias": torch.full_like(checkpoint.weights["fc.bias"], torch.nan)}
    graph = export(replace(checkpoint, weights=weights))
    with pytest.raises(GraphError, match="differs from PyTorch by nan of the largest logit"):
        check_parity(graph, checkpoint, normalized_noise(2, 3, 32, 32))


def test_parity_cannot_be_claimed_of_a_network_that_says_nothing() -> None:
    silent = made_checkpoint()
    weights = {**silent.weights, **{n: torch.zeros_like(silent.weights[n]) for n in ("fc.weight", "fc.bias")}}
    with pytest.raises(GraphError, match="PyTorch gives zero for every class of every image; the weights are damaged"):
        check_parity(export(silent), replace(silent, weights=weights), normalized_noise(2, 3, 32, 32))


def test_graph_survives_the_disk(tmp_path: Path) -> None:
    written = export(made_checkpoint(classes=3))
    write_graph(tmp_path / "graph.onnx", written)
    found = read_graph(tmp_path / "graph.onnx")
    assert (found.class_names, found.preprocess, found.sha256) == (
        ("class 0", "class 1", "class 2"),
        written.preprocess,
        written.sha256,
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a whole ONNX file"),
        (b"not onnx at all", "is not a whole ONNX file"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "is not a whole ONNX file"),
    ],
)
def test_graph_refuses_what_is_no_graph(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "graph.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=sentence):
        read_graph(tmp_path / "graph.onnx")


def test_graph_refuses_a_truncated_file(tmp_path: Path) -> None:
    data = export(made_checkpoint()).bytes
    (tmp_path / "graph.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(GraphError, match="is not a whole ONNX file .*; export it again"):
        read_graph(tmp_path / "graph.onnx")


def test_graph_refuses_an_opset_that_export_does_not_write(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(export(made_checkpoint()).bytes)
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(GraphError, match=r"is of opset 99, and gnet-edge export writes 13 or 17; export it again"):
        read_graph(tmp_path / "graph.onnx")


def renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: renamed(model, "images", "data"),
        lambda model: renamed(model, "logits", "scores"),
        lambda model: model.graph.node[0].input.pop(),
        lambda model: model.graph.input[0].type.tensor_type.shape.dim[2].Clear(),
    ],
    ids=["input", "output", "bias", "size"],
)
def test_graph_refuses_what_was_changed(edit: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    model = onnx.load_model_from_string(export(made_checkpoint()).bytes)
    edit(model)
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(GraphError, match=r"was changed after gnet-edge export wrote it; export it again"):
        read_graph(tmp_path / "graph.onnx")


def test_graph_refuses_somebody_elses(tmp_path: Path) -> None:
    model = export(made_checkpoint()).model
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="was not written by gnet-edge export"):
        read_graph(tmp_path / "graph.onnx")


# What a build starts from


def test_graph_of_another_version_or_of_other_weights_is_made_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.safetensors", made_checkpoint(widths=NARROW))
    origin = CheckpointSource(tmp_path / "c.safetensors").open(())
    graph, older = origin.make(), onnx.ModelProto()
    older.CopyFrom(graph.model)
    older.producer_version = "0.0.1"
    assert origin.made(graph)
    assert not origin.made(replace(graph, model=older))
    assert not origin.made(replace(graph, parent_sha256="0" * 64))


def test_accuracy_is_doubted_on_images_that_the_training_may_have_seen(tmp_path: Path) -> None:
    made, val = made_checkpoint(widths=NARROW), Checked(ImageSet(tmp_path, (), (), ()), "these", (), Preprocess())
    for judged_on, doubts in (("these", ()), ("others", (MAYBE_SEEN,)), ("", (MAYBE_SEEN,)), (None, ())):
        record = None if judged_on is None else TrainingRecord(1, 2, "", judged_on, 0.5, 1.0, 1.0)
        write_checkpoint(tmp_path / "c.safetensors", replace(made, info=replace(made.info, training=record)))
        assert CheckpointSource(tmp_path / "c.safetensors").open(()).doubts(val) == doubts
