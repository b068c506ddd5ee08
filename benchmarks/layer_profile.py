"""Where the time of an INT8 bundle goes, layer by layer, and how far each convolution is from the processor's limit.

The limit of a convolution is the same products as one matrix multiplication of the same runtime, which has nothing to
gather: (pixels, channels × kernel) by (channels × kernel, filters), u8 × s8, to u8 on ONNX Runtime and to float32 on
OpenVINO, timed in turns with the bundle. The limit of the processor is the fastest of these and of the convolutions.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import msgspec
import numpy as np
import onnx
from common import Figure, Result, at_least, conclude, markdown, parser, run, show
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from googlenet_edge.console import bar
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.errors import EngineError
from googlenet_edge.files import sha256_bytes
from googlenet_edge.processor import read_processor
from googlenet_edge.target import EngineName

RUNS = 20  # of each session, in each round
LARGEST = ((512, 1152, 256), (1024, 1024, 512), (3136, 576, 192))
Sizes = tuple[int, int, int]  # rows, depth, columns


@dataclass(frozen=True, slots=True)
class Layer:
    """One node as it ran. Times are medians over all runs, in µs; ``limit_us`` is that of a convolution alone."""

    name: str
    operator: str
    us: float
    sizes: Sizes | None = None
    limit_us: float | None = None

    @property
    def million_products(self) -> float:
        """Multiplications, in millions."""
        return float(np.prod(self.sizes)) / 1e6 if self.sizes else 0.0


Times = dict[str, tuple[str, float]]
"""(operator, median µs) by the name of the node, in the order in which they ran; the first round warms up."""


class Session(Protocol):
    """A model on one thread whose nodes are timed by the runtime itself, until `nodes` asks for the times."""

    def run(self) -> None:
        """`RUNS` inferences."""

    def nodes(self) -> Times:
        """See `Times`."""


class OnnxRuntimeSession:
    """On ONNX Runtime, which writes what it times into a file in ``folder``."""

    def __init__(self, model: bytes, values: NDArray[Any], folder: Path) -> None:
        import onnxruntime  # noqa: PLC0415  (after googlenet_edge, which keeps it from reporting)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / sha256_bytes(model))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._feed = {self._session.get_inputs()[0].name: values}

    def run(self) -> None:
        for _ in range(RUNS):
            self._session.run(None, self._feed)

    def nodes(self) -> Times:
        events = msgspec.json.decode(Path(self._session.end_profiling()).read_bytes())
        found: dict[str, list[float]] = defaultdict(list)
        operators = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                found[name].append(event["dur"])
                operators[name] = event["args"]["op_name"]
        return {name: (operators[name], median(times[RUNS:])) for name, times in found.items()}


class OpenVinoSession:
    """On OpenVINO, set up as our engine does it, with its performance counters."""

    def __init__(self, model: bytes, values: NDArray[Any], folder: Path) -> None:
        from googlenet_edge.engines import openvino_cpu as ours  # noqa: I001, PLC0415  (keeps it from reporting)
        import openvino  # noqa: PLC0415

        del folder
        core = openvino.Core()
        network = core.read_model(model)
        network.reshape(list(values.shape))
        options = ours.settings(EngineOptions(threads=1), processor=read_processor()) | {"PERF_COUNT": True}
        with ours.signal_stack_kept():
            self._request = core.compile_model(network, "CPU", options).create_infer_request()
        self._values = values
        self._found: dict[str, list[float]] = defaultdict(list)
        self._operators: dict[str, str] = {}

    def run(self) -> None:
        for _ in range(RUNS):
            self._request.infer([self._values])
            for node in self._request.get_profiling_info():
                if node.status == node.Status.EXECUTED:
                    self._found[node.node_name].append(node.real_time.total_seconds() * 1e6)
                    self._operators[node.node_name] = node.node_type

    def nodes(self) -> Times:
        lasting = {name: times[RUNS:] for name, times in self._found.items() if len(times) > RUNS}  # not of one run
        return {name: (self._operators[name], median(times)) for name, times in lasting.items()}


SESSIONS: dict[EngineName, type[OnnxRuntimeSession | OpenVinoSession]] = {
    EngineName.ONNXRUNTIME: OnnxRuntimeSession,
    EngineName.OPENVINO: OpenVinoSession,
}
CONVOLUTIONS = ("QLinearConv", "Convolution")
PRODUCTS = ("QLinearMatMul", "FullyConnected", "FullyConnectedQuantizedLegacy")


def main() -> None:
    """See the module."""
    options = parser(__doc__)
    options.add_argument(
        "--bundle", type=Path, default=Path("runs/flowers/int8-cpu"), help="an INT8 bundle for cpu, of either engine"
    )
    options.add_argument("--rounds", type=at_least(2), default=15)
    arguments = options.parse_args()
    bundle = read_bundle(arguments.bundle)
    sizes = sizes_of(onnx.load_model_from_string(bundle.model))
    engine = bundle.manifest.engine
    if engine not in SESSIONS:
        raise EngineError(f"the bundle is for {engine.value}, which is not timed here; give one in int8 for cpu")
    opened, product = SESSIONS[engine], WAYS[engine]
    circumstances = read_circumstances()
    with tempfile.TemporaryDirectory() as name, bar("profiling") as progress:
        folder = Path(name)
        network = opened(bundle.model, bundle.golden.pixels[:1], folder)
        products = {each: opened(*product(*each), folder) for each in sorted({*sizes.values(), *LARGEST})}
        for done in range(arguments.rounds):
            progress(done, arguments.rounds)
            for session in (network, *products.values()):
                session.run()
        progress(arguments.rounds, arguments.rounds)
        nodes = network.nodes()
        limits = {each: us_of_product(session.nodes()) for each, session in products.items()}
    layers = [layer_of(name, operator, us, sizes, limits) for name, (operator, us) in nodes.items() if us]
    show(table_of(layers))
    speeds = [float(np.prod(each)) / us / 1e3 for each, us in limits.items()]
    speeds += [each.million_products / each.us * 1e3 for each in layers if each.sizes]
    conclude(Result(figures_of(layers, max(speeds)), circumstances, layers), arguments.out)


def sizes_of(model: onnx.ModelProto) -> dict[str, Sizes]:
    """(pixels, channels × kernel, filters) of every convolution by its name."""
    shapes = {w.name: list(w.dims) for w in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    images = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    makers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in makers:  # what dequantizes the weight
            filters, channels, height, width = shapes[makers[node.input[1]].input[0]]
            rows = int(np.prod(images[node.output[0]][2:]))
            found[node.name] = (rows, channels * height * width, filters)
    if not found:
        raise EngineError("the bundle has no quantized convolution; give one in int8 for cpu")
    return found


def integer_product(rows: int, depth: int, columns: int) -> tuple[bytes, NDArray[np.uint8]]:
    """u8 (rows, depth) × s8 (depth, columns) → u8, each with one scale; and values for it."""
    constants = {
        "weight": random_codes(depth, columns),
        "scale": np.float32(0.01),
        "zero": np.uint8(0),
        "weight_zero": np.int8(0),
    }
    inputs = ["x", "scale", "zero", "weight", "scale", "weight_zero", "scale", "zero"]
    nodes = [helper.make_node("QLinearMatMul", inputs, ["y"], name="product")]
    values = np.random.default_rng(1).integers(0, 256, (rows, depth), np.uint8)
    return model_of(nodes, constants, values, (rows, columns)), values


def product_in_float(rows: int, depth: int, columns: int) -> tuple[bytes, NDArray[np.float32]]:
    """The same written in floats and quantizations, of which OpenVINO makes a product of integers and others nodes."""
    constants = {"weight": random_codes(depth, columns), "scale": np.float32(0.01), "zero": np.uint8(0)}
    constants |= {"scales": np.full(columns, 0.01, np.float32), "zeros": np.zeros(columns, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["left"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["right"], axis=1),
        helper.make_node("MatMul", ["left", "right"], ["y"], name="product"),
    ]
    values = np.random.default_rng(1).uniform(0, 2.55, (rows, depth)).astype(np.float32)
    return model_of(nodes, constants, values, (rows, columns)), values


def random_codes(*shape: int) -> NDArray[np.int8]:
    return np.random.default_rng(0).integers(-127, 128, shape, np.int8)


def model_of(
    nodes: list[onnx.NodeProto], constants: Mapping[str, Any], values: NDArray[Any], shape: tuple[int, int]
) -> bytes:
    """The model from x, like ``values``, to y of that shape and type."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, values.shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


WAYS = {EngineName.ONNXRUNTIME: integer_product, EngineName.OPENVINO: product_in_float}


def us_of_product(nodes: Times) -> float:
    """The product alone. Raises `EngineError` where it was not computed on its own."""
    found = [us for operator, us in nodes.values() if operator in PRODUCTS]
    if len(found) != 1:
        became = ", ".join(operator for operator, _ in nodes.values())
        raise EngineError(f"the product became {became}, so this processor has none to compare layers with")
    return found[0]


def layer_of(name: str, operator: str, us: float, sizes: dict[str, Sizes], limits: dict[Sizes, float]) -> Layer:
    """A fused node is named after the node that it replaced, with a word of the runtime behind."""
    plain = name.partition("_token_")[0].removesuffix("/WithoutBiases")
    found = sizes.get(plain) if operator in CONVOLUTIONS else None
    return Layer(plain, operator, us, found, limits[found] if found else None)


def table_of(layers: Sequence[Layer]) -> str:
    """One row a convolution, and one for each kind of everything else."""
    total = sum(layer.us for layer in layers)
    rows = [
        (each.name, f"{each.million_products:.1f}", f"{each.us:.0f}", f"{each.us / total:.1%}",
         f"{each.million_products / each.us * 1e3:.0f}", f"{each.us / each.limit_us:.2f}")
        for each in layers if each.limit_us
    ]  # fmt: skip
    for operator in dict.fromkeys(each.operator for each in layers if not each.limit_us):
        us = sum(each.us for each in layers if each.operator == operator and not each.limit_us)
        count = sum(each.operator == operator and not each.limit_us for each in layers)
        rows.append((f"{count} × {operator}", "", f"{us:.0f}", f"{us / total:.1%}", "", ""))
    return markdown(("layer", "million products", "µs", "share", "10⁹ products/s", "× the same product"), rows)


def figures_of(layers: Sequence[Layer], fastest: float) -> tuple[Figure, ...]:
    """The sums."""
    convolutions = [each for each in layers if each.limit_us]
    taken, limit = (
        sum(values) for values in zip(*((each.us, each.limit_us or 0) for each in convolutions), strict=True)
    )
    total, products = sum(each.us for each in layers), sum(each.million_products for each in convolutions)
    return (
        Figure("all layers", total / 1e3, "ms"),
        Figure("convolutions", taken / 1e3, "ms", detail=f"{taken / total:.1%} of it"),
        Figure(
            "the same products, nothing gathered", limit / 1e3, "ms", detail=f"convolutions take {taken / limit:.3f} ×"
        ),
        Figure("everything else", (total - taken) / 1e3, "ms", detail=f"{1 - taken / total:.1%}"),
        Figure("the fastest product", fastest, "10⁹ products/s", detail="of all sizes here"),
        Figure(
            "all products at that speed",
            products / fastest,
            "ms",
            detail=f"all layers take {total * fastest / products / 1e3:.3f} ×",
        ),
    )


if __name__ == "__main__":
    run(main)
