"""`gnet-edge package`: what Triton, DeepStream and Docker are given fits them and computes what the bundle does."""

from __future__ import annotations

import configparser
import importlib.util
import re
import subprocess
import sys
import textwrap
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command import gnet_edge
from google.protobuf import text_format
from numpy.typing import NDArray
from PIL import Image
from tiny_bundles import colour_bundle, write_colour_bundle
from tiny_graph import CROP, table_of, tiny_graph, tiny_pixels

import googlenet_edge
from googlenet_edge.calibration.lower_tensorrt import lower_int8_tensorrt
from googlenet_edge.engines.bundle import Bundle, Golden, Manifest, read_bundle, write_bundle
from googlenet_edge.engines.package import write_package
from googlenet_edge.engines.predictor import open_rgb
from googlenet_edge.errors import BundleError, OutputError
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineName, Precision, Recipient


def triton_schema() -> Any:
    """Triton's own protobuf, without the gRPC that its package would import."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def computed(model: Path, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """As the model is written, operator by operator."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


@pytest.fixture(scope="module")
def for_orin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the INT8 graph for TensorRT."""
    graph = tiny_graph()
    model = lower_int8_tensorrt(graph, table_of(graph)).SerializeToString()
    folder = tmp_path_factory.mktemp("orin")
    pixels = tiny_pixels(2)
    (folder / "model.onnx").write_bytes(model)
    logits = computed(folder / "model.onnx", pixels)
    names = tuple(f"class {number}" for number in range(logits.shape[1]))
    manifest = Manifest(Precision.INT8, Device.ORIN_NANO, Preprocess(resize=CROP, crop=CROP))
    write_bundle(folder / "bundle", Bundle(manifest, names, model, Golden(pixels, logits)))
    return folder / "bundle"


@pytest.mark.parametrize(
    ("device", "backend", "kind"), [("cpu", "onnxruntime", "KIND_CPU"), ("orin", "tensorrt", "KIND_GPU")]
)
def test_triton_reads_the_configuration_and_the_model_is_what_it_says(
    tmp_path: Path, for_orin: Path, device: str, backend: str, kind: str
) -> None:
    path = write_colour_bundle(tmp_path / "bundle") if device == "cpu" else for_orin
    write_package(path, Recipient.TRITON, tmp_path / "models")
    schema, folder = triton_schema(), tmp_path / "models" / "googlenet"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("", backend, 8), "the folder's name is the model's"
    assert config.dynamic_batching.max_queue_delay_microseconds == (0 if device == "cpu" else 2000)
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.Kind.Value(kind)

    bundle, (given,), (answer,) = read_bundle(path), config.input, config.output
    labels = (folder / answer.label_filename).read_text().splitlines()
    assert tuple(labels) == bundle.class_names and answer.dims == [len(labels)]
    model = folder / "1" / "model.onnx" if device == "cpu" else folder / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (taken,), (made,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape[1:]) == (given.name, "tensor(uint8)", list(given.dims))
    assert (made.name, made.type, made.shape[1:]) == (answer.name, "tensor(float)", list(answer.dims))
    assert (given.data_type, answer.data_type) == (schema.TYPE_UINT8, schema.TYPE_FP32)
    assert computed(model, bundle.golden.pixels) == pytest.approx(bundle.golden.logits, abs=1e-4)


class FakeTriton(types.ModuleType):
    """As much of ``tritonclient.http`` as the README's client uses; the "server" computes the bundle's model."""

    def __init__(self, model: Path) -> None:
        super().__init__("tritonclient.http")
        self.model = model
        self.given: Any = None

    def InferInput(self, name: str, shape: tuple[int, ...], datatype: str) -> FakeTriton:  # noqa: N802
        assert (name, datatype) == ("pixels", "UINT8")
        return self

    def set_data_from_numpy(self, pixels: NDArray[np.uint8]) -> None:
        assert pixels.dtype == np.uint8
        self.given = pixels

    def InferRequestedOutput(self, name: str, class_count: int) -> tuple[str, int]:  # noqa: N802
        return name, class_count

    def InferenceServerClient(self, url: str) -> FakeTriton:  # noqa: N802
        assert url == "localhost:8000"
        return self

    def infer(self, model: str, inputs: list[Any], *, outputs: list[tuple[str, int]]) -> FakeTriton:
        assert model == "googlenet" and inputs == [self] and outputs == [("logits", 3)]
        return self

    def as_numpy(self, name: str) -> NDArray[np.float32]:
        return computed(self.model, self.given)


def test_triton_s_client_in_the_readme_asks_with_the_pixels_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_colour_bundle(tmp_path / "bundle")
    write_package(path, Recipient.TRITON, tmp_path / "models")
    image = Image.effect_noise((900, 610), 80).convert("RGB")  # so large that a JPEG is decoded to fewer pixels
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    fake = FakeTriton(tmp_path / "models" / "googlenet" / "1" / "model.onnx")
    monkeypatch.setitem(sys.modules, "tritonclient", types.ModuleType("tritonclient"))
    monkeypatch.setattr(sys.modules["tritonclient"], "http", fake, raising=False)
    monkeypatch.setitem(sys.modules, "tritonclient.http", fake)
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "models" / "README.md").read_text()
    exec(textwrap.dedent(text[text.index("    from pathlib") :]), {})
    with googlenet_edge.load(path) as predictor:
        assert np.array_equal(
            fake.given, predictor.preprocess.pixels(open_rgb("photo.jpg", predictor.preprocess))[None]
        )
    assert capsys.readouterr().out.startswith("[[")


def test_triton_gets_a_plan_by_the_command_that_stands_beside_it(tmp_path: Path, for_orin: Path) -> None:
    write_package(for_orin, Recipient.TRITON, tmp_path / "models")
    text = (tmp_path / "models" / "README.md").read_text()
    words = re.search(r"trtexec (.*)", text)
    assert words and words[1].split() == [
        "--onnx=googlenet/model.onnx",
        "--saveEngine=googlenet/1/model.plan",
        "--noTF32",
        f"--minShapes=pixels:1x{CROP}x{CROP}x3",
        f"--optShapes=pixels:1x{CROP}x{CROP}x3",
        f"--maxShapes=pixels:8x{CROP}x{CROP}x3",
        "--stronglyTyped",
    ]
    older = "Before TensorRT 10, write --int8 --fp16 in place of --stronglyTyped, before 8.4 also --workspace=1024."
    assert older in text


def test_deepstream_computes_the_bundles_probabilities_from_what_nvinfer_feeds(tmp_path: Path, for_orin: Path) -> None:
    write_package(for_orin, Recipient.DEEPSTREAM, tmp_path / "ds")
    config = configparser.ConfigParser()
    config.read(tmp_path / "ds" / "config_infer.txt")
    settings, bundle = config["property"], read_bundle(for_orin)
    assert settings["infer-dims"] == f"3;{CROP};{CROP}" and settings["model-color-format"] == "0"  # RGB
    assert (settings["network-type"], settings["network-mode"]) == ("1", "1")  # a classifier, INT8
    labels = (tmp_path / "ds" / settings["labelfile-path"]).read_text()
    assert tuple(labels.rstrip("\n").split(";")) == bundle.class_names
    assert settings["model-engine-file"] in (tmp_path / "ds" / "README.md").read_text()

    planes = bundle.golden.pixels.transpose(0, 3, 1, 2).astype(np.float32)
    fed = np.float32(settings["net-scale-factor"]) * (planes - np.float32(settings.get("offsets", "0")))
    exponents = np.exp(bundle.golden.logits - bundle.golden.logits.max(axis=1, keepdims=True))
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    assert computed(tmp_path / "ds" / "model.onnx", fed) == pytest.approx(expected, abs=1e-6)


def test_docker_copies_only_what_is_there(tmp_path: Path, for_orin: Path) -> None:
    bases, hadolint = {}, Path(sys.executable).with_name("hadolint")
    for device, path in (("cpu", write_colour_bundle(tmp_path / "bundle")), ("orin", for_orin)):
        out = tmp_path / f"{device}-docker"
        write_package(path, Recipient.DOCKER, out)
        lines = (out / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
        linted = subprocess.run([hadolint, out / "Dockerfile"], capture_output=True, text=True, check=False)
        assert (linted.returncode, linted.stdout) == (0, "")
        copied = [line.split()[-2] for line in lines if line.startswith("COPY ")]
        assert ("COPY --chown=1000 bundle /bundle" in lines) is (device == "cpu"), "whoever may read the files"
        assert ("USER 1000" in lines) is (device == "cpu"), "root, where the GPU's devices are root's"
        assert copied == [next(out.glob("*.whl")).name, "bundle"]
        assert all((out / name).exists() for name in copied)
        assert read_bundle(out / "bundle").class_names == read_bundle(path).class_names
        bases[device] = lines[0]
        hidden = "--security-opt systempaths=unconfined --volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        assert (hidden in (out / "README.md").read_text()) is (device == "orin"), "what says which Jetson it is"
    assert bases["cpu"] == "ARG BASE=python:3.12-slim" and "l4t-jetpack" in bases["orin"]
    names = zipfile.ZipFile(next((tmp_path / "cpu-docker").glob("*.whl"))).namelist()
    assert "googlenet_edge/engines/package.py" in names


def test_what_a_recipient_cannot_run_is_refused_with_the_way_out(tmp_path: Path, for_orin: Path) -> None:
    path = write_colour_bundle(tmp_path / "bundle")
    with pytest.raises(
        BundleError,
        match="for a processor and DeepStream runs TensorRT; build for a device with it",
    ):
        write_package(path, Recipient.DEEPSTREAM, tmp_path / "ds")
    odd = replace(read_bundle(for_orin), class_names=("a;b", *read_bundle(for_orin).class_names[1:]))
    write_bundle(tmp_path / "odd", odd)
    with pytest.raises(BundleError, match="'a;b' has a semicolon, which divides DeepStream's labels; rename it"):
        write_package(tmp_path / "odd", Recipient.DEEPSTREAM, tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    ("device", "recipient", "sentence"),
    [
        (Device.RTX, Recipient.TRITON, "for TensorRT for RTX, and Triton runs TensorRT; build with --device cuda"),
        (Device.RTX, Recipient.DEEPSTREAM, "for RTX, and DeepStream runs TensorRT; build with --device cuda"),
        (
            Device.NANO,
            Recipient.TRITON,
            "is for the device nano, whose TensorRT takes no unsigned bytes.*--for deepstre",
        ),
        (Device.CUDA, Recipient.DOCKER, "no image .* is known; give a bundle for one of: cpu, orin-nano, orin-nx, agx"),
        (Device.NANO, Recipient.DOCKER, "is for the device nano, for which no image of NVIDIA's L4T with Python 3.10"),
    ],
)
def test_a_device_that_a_recipient_does_not_have_is_refused(
    tmp_path: Path, device: Device, recipient: Recipient, sentence: str
) -> None:
    bundle = colour_bundle()
    write_bundle(tmp_path / "bundle", replace(bundle, manifest=replace(bundle.manifest, device=device)))
    with pytest.raises(BundleError, match=sentence):
        write_package(tmp_path / "bundle", recipient, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_docker_installs_the_engine_that_the_bundle_names(tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "bundle", engine=EngineName.OPENVINO)
    write_package(path, Recipient.DOCKER, tmp_path / "out")
    assert re.search(r"pip install .*\.whl\[openvino\]'", (tmp_path / "out" / "Dockerfile").read_text())


@pytest.mark.parametrize(("bits", "warned"), [(8, True), (7, False)])
def test_triton_s_readme_warns_of_weights_that_saturate(tmp_path: Path, bits: int, warned: bool) -> None:
    bundle = colour_bundle(Precision.INT8)
    write_bundle(tmp_path / "bundle", replace(bundle, manifest=replace(bundle.manifest, weight_bits=bits)))
    write_package(tmp_path / "bundle", Recipient.TRITON, tmp_path / "out")
    assert ("without VNNI" in (tmp_path / "out" / "README.md").read_text()) is warned


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "bundle")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="out is not empty; give another --out, or remove it"):
        write_package(path, Recipient.TRITON, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_nothing_is_packed_into_a_bundle(tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "bundle")
    with pytest.raises(OutputError, match=r"bundle/out: \S+bundle is a bundle; give another --out"):
        write_package(path, Recipient.TRITON, path / "out")
    assert read_bundle(path)


def test_the_working_folder_can_be_the_bundle(tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "bundle")
    assert gnet_edge("package", ".", "--for", "triton", cwd=path).code == 0
    assert (tmp_path / "bundle-triton" / "googlenet" / "config.pbtxt").exists()


def test_the_command_says_what_it_wrote_and_how_to_run_it(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "runs" / "signs" / "fp32-cpu")
    done = gnet_edge("package", "--for", "triton", cwd=tmp_path)
    folder = Path("runs", "signs", "fp32-cpu-triton")
    assert done.code == 0, done.err
    assert done.err.endswith(f"how to run it: {folder / 'README.md'}\n")
    assert "tritonserver --model-repository" in (tmp_path / folder / "README.md").read_text()
