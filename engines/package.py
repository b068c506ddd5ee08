"""A bundle in the form that a serving system takes: a Triton model repository, a DeepStream element, a container.

The bundle's model computes on raw pixels and normalizes them itself, so no configuration repeats the normalization.
What TensorRT runs is compiled where it runs; the commands stand beside it.

Sources: Triton's model_config.proto and "Model Repository"; DeepStream's "Gst-nvinfer" (keys and defaults), and its
``nvdsinfer_model_builder.cpp``: without a calibration file it builds no INT8, so the plan is made by ``trtexec``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from googlenet_edge.engines.bundle import GOLDEN, LABELS, MANIFEST, MODEL, Bundle, read_bundle
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.wheel import pack_wheel
from googlenet_edge.errors import BundleError, OutputError
from googlenet_edge.files import new_folder, write_bytes
from googlenet_edge.target import Device, EngineName, Precision, Recipient, Unit
from googlenet_edge.workspace import refuse_inside_bundle

NAME = "googlenet"
README = "README.md"
_MOST_IMAGES = 8
_WAIT_US = 2000  # on a GPU; a processor computes a batch no faster than its images one by one
_PLAN = "model.plan"
_USER = 1000
_L4T = "nvcr.io/nvidia/l4t-jetpack:r36.4.0"
_ON_L4T = (Device.ORIN_NANO, Device.ORIN_NX, Device.AGX_ORIN)  # JetPack 6: the first whose Python is new enough
_AS_A_JETSON = (
    " --runtime nvidia --volume gnet-edge:/cache --security-opt systempaths=unconfined"
    " --volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
)
"""Docker hides ``/sys/firmware``, and with it the device tree."""
_FLAGS = {Precision.FP32: "nothing", Precision.FP16: "--fp16", Precision.INT8: "--int8 --fp16"}
_TRITON = """# A model repository for Triton

From the folder that holds this file:

{compiling}    tritonserver --model-repository="$PWD"

{hints}To serve several bundles, give each folder `{name}` a name of its own in one repository: it is the model's name.

Input `pixels`: uint8 (N, {crop}, {crop}, 3), RGB. Output `logits`: float32 (N, {classes}). Cut and asked
as here it answers as the bundle does (needs this package and `pip install 'tritonclient[http]'`):

    from pathlib import Path
    import tritonclient.http as triton
    from googlenet_edge import Preprocess
    from googlenet_edge.images import decode_rgb

    preprocess = Preprocess(resize={resize}, crop={crop})
    image = decode_rgb(Path("photo.jpg"), short_side=preprocess.resize)
    pixels = preprocess.pixels(image)[None]
    given = triton.InferInput("pixels", pixels.shape, "UINT8")
    given.set_data_from_numpy(pixels)
    wanted = triton.InferRequestedOutput("logits", class_count={best})
    answer = triton.InferenceServerClient("localhost:8000").infer("{name}", [given], outputs=[wanted])
    print(answer.as_numpy("logits"))  # LOGIT:INDEX:LABEL, the best first
"""
_TRITON_COMPILES = """Compile the plan on the GPU that will run it, in Triton's container, whose TensorRT it must be of:

    mkdir -p {name}/1 && {command}

{older}

Then serve it:

"""
_CORES = """\
One instance computes on one core: for more images a second, set `count` in `config.pbtxt` to the number of cores.

"""
_SATURATES = (
    "On x86 without VNNI the sums of these 8-bit weights saturate in Triton, whose ONNX Runtime backend cannot be told"
    " to avoid it: there, serve only a bundle that was built on such a processor.\n\n"
)
_DEEPSTREAM = """# A classifier for DeepStream

Compile the plan on the device that will run it, in this folder (nvinfer itself builds no INT8 without a
calibration file of TensorRT's own):

    {command}

{older}

Then, with a video of yours, in the same folder (on a Jetson, nv3dsink in the place of nveglglessink):

    gst-launch-1.0 filesrc location=video.mp4 ! qtdemux ! h264parse ! nvv4l2decoder ! m.sink_0 \\
        nvstreammux name=m batch-size=1 width=1920 height=1080 ! nvinfer config-file-path=config_infer.txt \\
        ! nvvideoconvert ! nvdsosd ! nveglglessink

nvinfer scales whole frames to the square, which is neither Pillow's resize nor a centre cut; from what it
hands to the network on, all is exact.
"""
_DOCKER = """# A container

    docker build --tag googlenet .
    docker run --rm{options} googlenet
    docker run --rm{options} --volume "$PWD":/work:ro googlenet predict photo.jpg --bundle /bundle
"""
_DOCKER_ON_A_JETSON = f"""
The plan is compiled at the first start and kept in the volume. By `systempaths` and `nv_tegra_release`
`bench` knows the Jetson that it is on; `predict` needs neither.
The base is `{_L4T}`, for JetPack 6; for another of NVIDIA's: `docker build --build-arg BASE=…`.
"""
# The releases of a base fix the versions of what is for building.
_ON_JETPACK = """ARG BASE={base}
FROM ${{BASE}}
# hadolint ignore=DL3008
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends build-essential python3-dev python3-pip \\
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/usr/local/cuda/bin:${{PATH}} CPATH=/usr/local/cuda/include XDG_CACHE_HOME=/cache \\
    PIP_BREAK_SYSTEM_PACKAGES=1
COPY {wheel} /tmp/
RUN pip3 install --no-cache-dir 'pycuda>=2022.1' /tmp/{wheel} && rm /tmp/{wheel}
VOLUME /cache
"""
_ON_PROCESSOR = """ARG BASE=python:3.12-slim
FROM ${{BASE}}
COPY {wheel} /tmp/
RUN pip install --no-cache-dir '/tmp/{wheel}{extra}' && rm /tmp/{wheel}
RUN useradd --create-home --uid {user} gnet
USER {user}
"""
_RUN = """WORKDIR /work
COPY {owner}bundle /bundle
ENTRYPOINT ["gnet-edge"]
CMD ["bench", "/bundle"]
"""


Files = dict[str, bytes]
"""By their path in a folder."""


def write_package(path: Path, recipient: Recipient, out: Path) -> Files:
    """Packs the bundle at ``path`` into the new or empty folder ``out``, in one step.

    Raises:
        BundleError: no whole bundle, or one that the recipient cannot run.
        OutputError: ``out`` holds something, lies inside a bundle, or cannot be written.
        EngineError: for Docker, where this package was not installed.
    """
    bundle = read_bundle(path)
    if bundle.manifest.unit is Unit.DLA:
        raise BundleError(f"{path} is for a DLA, which no package is for; pack one that was built without --dla")
    refuse_inside_bundle(out)
    packed = _MAKERS[recipient](bundle, path)
    with new_folder(out) as folder:
        if out.exists() and any(out.iterdir()):
            raise OutputError(f"{out} is not empty; give another --out, or remove it")
        for name, data in packed.items():
            write_bytes(folder / name, data)
    return packed


def for_triton(bundle: Bundle, path: Path) -> Files:
    """A model repository: Triton's ONNX Runtime backend for a processor, its TensorRT backend for a GPU."""
    manifest, on_gpu = bundle.manifest, bundle.manifest.device is not Device.CPU
    _refuse_rtx(bundle, path, "Triton")
    if not profile_of(manifest.device).takes_pixels:
        raise BundleError(
            f"{path} is for the device {manifest.device.value}, whose TensorRT takes no unsigned bytes, which is what"
            " Triton sends; pack it with --for deepstream, whose model takes floats"
        )
    files = {
        f"{NAME}/config.pbtxt": _triton_config(bundle, on_gpu=on_gpu).encode(),
        f"{NAME}/{LABELS}": (path / LABELS).read_bytes(),
        f"{NAME}/1/{MODEL}": bundle.model,
    }
    compiling, hints = "", _CORES
    if on_gpu:
        files[f"{NAME}/{MODEL}"] = files.pop(f"{NAME}/1/{MODEL}")
        image = "{n}x{crop}x{crop}x3"
        command, older = _trtexec(bundle, model=f"{NAME}/{MODEL}", plan=f"{NAME}/1/{_PLAN}", image=image)
        compiling, hints = _TRITON_COMPILES.format(name=NAME, command=command, older=older), ""
    elif manifest.precision is Precision.INT8 and manifest.weight_bits == 8:
        hints += _SATURATES
    preprocess, classes = manifest.preprocess, len(bundle.class_names)
    readme = _TRITON.format(
        name=NAME,
        compiling=compiling,
        hints=hints,
        resize=preprocess.resize,
        crop=preprocess.crop,
        classes=classes,
        best=min(5, classes),
    )
    return {**files, README: readme.encode()}


def for_deepstream(bundle: Bundle, path: Path) -> Files:
    """Configuration, labels and model for ``nvinfer`` as a classifier of whole frames."""
    if bundle.manifest.device is Device.CPU:
        raise BundleError(
            f"{path} is for a processor and DeepStream runs TensorRT; build for a device with it, such as"
            " --device orin-nano"
        )
    _refuse_rtx(bundle, path, "DeepStream")
    for name in bundle.class_names:
        if ";" in name:
            raise BundleError(f"the class name {name!r} has a semicolon, which divides DeepStream's labels; rename it")
    plan = f"{MODEL}_b1_gpu0_{bundle.manifest.precision.value}.engine"
    command, older = _trtexec(bundle, model=MODEL, plan=plan, image="{n}x3x{crop}x{crop}", most=1)
    from googlenet_edge.calibration.pixels import taking_planes  # noqa: PLC0415  (needs onnx, others here do not)

    return {
        "config_infer.txt": _nvinfer_config(bundle, plan).encode(),
        LABELS: ";".join(bundle.class_names).encode() + b"\n",
        MODEL: taking_planes(bundle.model, crop=bundle.manifest.preprocess.crop),
        README: _DEEPSTREAM.format(command=command, older=older).encode(),
    }


def for_docker(bundle: Bundle, path: Path) -> Files:
    """A build context: Dockerfile, the wheel of this package and the bundle."""
    device, wheel = bundle.manifest.device, pack_wheel()
    on_jetson = device in _ON_L4T
    if not on_jetson and device is not Device.CPU:
        known = ", ".join(each.value for each in _ON_L4T)
        raise BundleError(
            f"{path} is for the device {device.value}, for which no image of NVIDIA's L4T with Python 3.10 or newer is"
            f" known; give a bundle for one of: cpu, {known}"
        )
    extra = "[openvino]" if bundle.manifest.engine is EngineName.OPENVINO else ""
    head = _ON_JETPACK if on_jetson else _ON_PROCESSOR
    owner = "" if on_jetson else f"--chown={_USER} "  # a file that only its owner may read stays one in the image
    dockerfile = head.format(base=_L4T, wheel=wheel.name, extra=extra, user=_USER) + _RUN.format(owner=owner)
    readme = _DOCKER.format(options=_AS_A_JETSON if on_jetson else "") + (_DOCKER_ON_A_JETSON if on_jetson else "")
    files = {f"bundle/{name}": (path / name).read_bytes() for name in (MANIFEST, MODEL, LABELS, GOLDEN)}
    return {**files, wheel.name: wheel.data, "Dockerfile": dockerfile.encode(), README: readme.encode()}


_MAKERS: dict[Recipient, Callable[[Bundle, Path], Files]] = {
    Recipient.TRITON: for_triton,
    Recipient.DEEPSTREAM: for_deepstream,
    Recipient.DOCKER: for_docker,
}


def _triton_config(bundle: Bundle, *, on_gpu: bool) -> str:
    crop, classes = bundle.manifest.preprocess.crop, len(bundle.class_names)
    backend, kind = ("tensorrt", "KIND_GPU") if on_gpu else ("onnxruntime", "KIND_CPU")
    threads = "" if on_gpu else 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
    return (
        f'backend: "{backend}"\nmax_batch_size: {_MOST_IMAGES}\n'
        f'input {{ name: "pixels" data_type: TYPE_UINT8 dims: [ {crop}, {crop}, 3 ] }}\n'
        f'output {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: {json.dumps(LABELS)} }}\n'
        f"dynamic_batching {{ max_queue_delay_microseconds: {_WAIT_US if on_gpu else 0} }}\n"
        f"instance_group {{ kind: {kind} count: 1 }}\n{threads}"
    )


def _nvinfer_config(bundle: Bundle, plan: str) -> str:
    crop = bundle.manifest.preprocess.crop
    mode = {Precision.FP32: 0, Precision.INT8: 1, Precision.FP16: 2}[bundle.manifest.precision]
    settings = {
        "gpu-id": 0,
        "model-engine-file": plan,
        "labelfile-path": LABELS,
        "batch-size": 1,
        "network-mode": mode,
        "network-type": 1,
        "process-mode": 1,
        "gie-unique-id": 1,
        "infer-dims": f"3;{crop};{crop}",
        "model-color-format": 0,
        "net-scale-factor": 1.0,
        "maintain-aspect-ratio": 0,
        "output-blob-names": "probabilities",
        "classifier-threshold": 0.0,
    }
    return "[property]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())


def _refuse_rtx(bundle: Bundle, path: Path, recipient: str) -> None:
    if bundle.manifest.device is Device.RTX:
        raise BundleError(f"{path} is for TensorRT for RTX, and {recipient} runs TensorRT; build with --device cuda")


def _trtexec(bundle: Bundle, *, model: str, plan: str, image: str, most: int = _MOST_IMAGES) -> tuple[str, str]:
    """The command that compiles a plan by the types in the graph, and what is written where TensorRT has only flags."""
    crop = bundle.manifest.preprocess.crop
    shapes = [
        f"--{end}Shapes=pixels:{image.format(n=n, crop=crop)}" for end, n in (("min", 1), ("opt", 1), ("max", most))
    ]
    words = ["/usr/src/tensorrt/bin/trtexec", f"--onnx={model}", f"--saveEngine={plan}", "--noTF32", *shapes]
    flags, workspace = _FLAGS[bundle.manifest.precision], profile_of(bundle.manifest.device).workspace_bytes >> 20
    older = f"Before TensorRT 10, write {flags} in place of --stronglyTyped, before 8.4 also --workspace={workspace}."
    return f"{shlex.join(words)} --stronglyTyped", older
