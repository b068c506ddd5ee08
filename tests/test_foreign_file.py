"""What a foreign ONNX file must not be: each gets one clear line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import CLASSES, SIDE, Maker, caffe_style, model_of, saved, tensor, torchvision_style
from onnx import TensorProto, helper, numpy_helper

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.file import read_foreign, read_labels


def refused(path: Path, sentence: str, *, size: int | None = None) -> None:
    with pytest.raises(GraphError, match=rf"net\.onnx {sentence}") as problem:
        read_foreign(path, size=size)
    assert "\n" not in str(problem.value)


def test_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    file = read_foreign(saved(caffe_style(8), tmp_path / "net.onnx"))
    assert (file.input, file.logits) == ("data_0", "loss3/classifier_1")
    assert (file.batch, file.crop, file.classes) == (1, SIDE, CLASSES)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9999])
def test_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    whole = caffe_style().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(whole[: int(share * len(whole))])
    refused(tmp_path / "net.onnx", r"is not a whole ONNX file \(.*\); copy or export it again")


def test_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    for content in (b"PK\x03\x04", b"<html>not found</html>", os.urandom(1000), b"\n\x02\xff\xfe"):
        (tmp_path / "net.onnx").write_bytes(content)
        refused(tmp_path / "net.onnx", r"is not a whole ONNX file \(.*\); copy or export it again")


def test_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "net.onnx", "is missing")
    (tmp_path / "net.onnx").mkdir()
    refused(tmp_path / "net.onnx", "is a folder; give a file in it")


def test_file_of_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "net.onnx").open("wb") as file:
        file.truncate(3 << 30)  # sparse
    refused(tmp_path / "net.onnx", "has 3221225472 bytes where at most 536870912 are expected; it is not what it sho")


# What is done to a good file


def external(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")


def quantized(model: onnx.ModelProto) -> None:
    make = Maker()
    make.node("DequantizeLinear", ["q", make.constant("s", 0.1)], model.graph.node[0].input[1])
    model.graph.initializer[0].name = "q"
    model.graph.node.insert(0, make.nodes[0])


def quantized_by_microsoft(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "QLinearAveragePool"
    model.graph.node[0].domain = "com.microsoft"


def of_another_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.example"


def control_flow(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=body))


def functions(model: onnx.ModelProto) -> None:
    model.functions.add(name="Inception", domain="local")


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "thin"


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(tensor("mask", 1, 3))


def no_input(model: onnx.ModelProto) -> None:
    [data] = [i for i in model.graph.input if i.name == "data_0"]
    model.graph.input.remove(data)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, SIDE, SIDE), np.float32), "data_0"))


def auxiliary_head(model: onnx.ModelProto) -> None:
    model.graph.output.append(tensor("pool3/3x3_s2_1", 1, 28, 4, 4))


def features(model: onnx.ModelProto) -> None:
    model.graph.output[0].CopyFrom(tensor("inception_4a/output_1", 1, 36, 4, 4))


def nan(model: onnx.ModelProto) -> None:
    [weight] = [w for w in model.graph.initializer if w.name == "conv2/3x3_w_0"]
    value = numpy_helper.to_array(weight).copy()
    value[3, 2, 1, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))


def half(model: onnx.ModelProto) -> None:
    weight = next(w for w in model.graph.initializer if w.name == "conv2/3x3_w_0")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))


def unknown_kind(model: onnx.ModelProto) -> None:
    next(w for w in model.graph.initializer if w.name == "conv2/3x3_w_0").data_type = 999


def short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-8]


def unknown_tensor(model: onnx.ModelProto) -> None:
    model.graph.node[5].input[0] = "nowhere"


def huge(model: onnx.ModelProto) -> None:
    make = Maker()
    make.node("ConstantOfShape", [make.constant("s", [1 << 20, 1 << 20], np.int64)], "huge")
    model.graph.node.extend(make.nodes)
    model.graph.initializer.extend(make.weights)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (external, "keeps the weight conv1/7x7_s2_w_0 in another file; put all in one with onnx.load and onnx.save"),
        (
            quantized,
            r"has the operator DequantizeLinear \(conv1/7x7_s2_w_0\): it is quantized already; give the float32 file"
            " that it was made from",
        ),
        (
            quantized_by_microsoft,
            r"has the operator QLinearAveragePool \(conv1/7x7_s2_1\): it is quantized already; .*",
        ),
        (
            of_another_domain,
            r"has the operator Relu \(conv1/7x7_s2_2\) of com\.example, which is not ONNX's own; export it with ONNX's"
            " operators alone",
        ),
        (control_flow, r"has the operator If \(y\), which is control flow; export a network that does the same for"),
        (functions, r"defines the operator Inception; inline it with onnx\.inliner"),
        (sparse, "has the sparse weight thin; export it with dense weights"),
        (two_inputs, r"has 2 inputs \(data_0, mask\), expected one, the images; export it without the rest"),
        (no_input, r"has 0 inputs \(none\), expected one, the images; export it without the rest"),
        (
            auxiliary_head,
            r"has 2 outputs \(prob_1, pool3/3x3_s2_1\), expected one, the scores; export it for inference, without"
            " auxiliary heads",
        ),
        (
            features,
            r"gives \(1, 36, 4, 4\) for 1 images, expected a row of scores for each: float32 \(1, classes\); export the"
            " classifier alone",
        ),
        (nan, "has NaN in conv2/3x3_w_0; its training failed, use another file"),
        (half, r"is in half precision \(conv2/3x3_w_0\); give the float32 file it was made from"),
        (unknown_kind, r"has a damaged weight conv2/3x3_w_0 \(.*\); copy or export it again"),
        (short_weight, r"(has a damaged weight conv1/7x7_s2_w_0|is not a whole ONNX file) \(.*\); copy or export it"),
        (unknown_tensor, r"is not a whole ONNX file \(.*\); copy or export it again"),
        (huge, r"computes the tensor huge of \(1048576, 1048576\), which is no GoogLeNet's"),
    ],
)
def test_file_of_another_kind_is_refused(
    change: Callable[[onnx.ModelProto], None], sentence: str, tmp_path: Path
) -> None:
    model = caffe_style()
    change(model)
    refused(saved(model, tmp_path / "net.onnx"), sentence)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((1, 3, 64), r"float \(1, 3, 64\)"),
        ((1, 3, 64, 48), r"float \(1, 3, 64, 48\)"),
        ((1, 64, 64, 3), r"float \(1, 64, 64, 3\)"),
        (("N", 1, 64, 64), r"float \(\?, 1, 64, 64\)"),
        (("N", 3, "H", 64), r"float \(\?, 3, \?, 64\)"),
    ],
)
def test_images_of_another_shape_are_refused(shape: tuple[int | str, ...], found: str, tmp_path: Path) -> None:
    model = torchvision_style()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    sentence = rf"takes {found}, expected images float32 \(N, 3, size, size\); export it so"
    refused(saved(model, tmp_path / "net.onnx"), sentence)


def test_images_of_bytes_are_refused(tmp_path: Path) -> None:
    model = torchvision_style()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    refused(saved(model, tmp_path / "net.onnx"), r"takes uint8 \(1, 3, 64, 64\), expected images float32 \(N, 3, .*")


def test_open_size_must_be_given_and_a_fixed_one_is_kept(tmp_path: Path) -> None:
    path = saved(caffe_style(), tmp_path / "net.onnx")
    refused(path, "takes images of 64×64 pixels, not of 32×32; leave --size out", size=32)
    model = torchvision_style()
    model.graph.input[0].CopyFrom(tensor("x", "N", 3, "S", "S"))
    saved(model, path)
    refused(path, "leaves the size of its images open; give it with --size")
    assert read_foreign(path, size=96).crop == 96


def test_file_of_an_opset_that_is_not_known_is_refused(tmp_path: Path) -> None:
    model = torchvision_style()
    model.opset_import[0].version = 99
    sentence = r"is of opset 99, newer than the \d+ that ONNX \S+ knows; export it with opset 17"
    refused(saved(model, tmp_path / "net.onnx"), sentence)


def test_older_files_with_words_that_are_not_known_are_refused(tmp_path: Path) -> None:
    make = Maker()
    make.node("Add", ["x", make.constant("b", [1.0, 2.0, 3.0])], "y", broadcast=1, axis=1)
    model = model_of(make, [tensor("x", 1, 3, 8, 8), tensor("b", 3)], [tensor("y", 1, 3, 8, 8)], opset=6, ir_version=3)
    sentence = (
        r"is of opset 6, and the Add y has an operand that begins at an axis; export it again with opset 8 or newer"
    )
    refused(saved(model, tmp_path / "net.onnx"), sentence)


def test_older_files_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    make = Maker()
    ends = [make.constant(name, [1.0, 2.0, 3.0]) for name in ("scale", "shift", "mean", "variance")]
    make.node("BatchNormalization", ["x", *ends], "y", is_test=0)
    inputs = [tensor("x", 1, 3, 8, 8), *(tensor(name, 3) for name in ends)]
    model = model_of(make, inputs, [tensor("y", 1, 3, 8, 8)], opset=6, ir_version=3)
    sentence = r"is of opset 6, and not all of it can be read \(.*is_test.*\); export it again with opset 8 or newer"
    refused(saved(model, tmp_path / "net.onnx"), sentence)


# Labels


def test_labels_are_lines_of_any_editor(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("\ufeffn01440764 tench, Tinca tinca\r\n  café \r\n\r\n".encode())
    assert read_labels(tmp_path / "labels.txt") == ("n01440764 tench, Tinca tinca", "café")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"has no label in line 1 \(''\); expected one label a line"),
        (b"cat\n\ndog\n", r"has no label in line 2 \(''\); expected one label a line"),
        (b"cat\n\x07dog\n", r"has no label in line 2 \('\\x07dog'\); expected one label a line"),
        (b"cat\ncrane\ncrane\n", "has the label 'crane' in lines 2 and 3; make them differ"),
        (b"caf\xe9\n", r"is no text in UTF-8 \(.*\); expected one label a line"),
    ],
)
def test_labels_that_are_none_are_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(GraphError, match=rf"labels\.txt {sentence}"):
        read_labels(tmp_path / "labels.txt")
