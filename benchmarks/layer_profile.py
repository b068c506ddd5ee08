"""Where the time of an INT8 bundle goes, layer by layer, and how far each convolution is from the processor's limit.

The limit of a convolution is the same products as one matrix multiplication of the same runtime, which has nothing to
gather: (pixels, channels × kernel) by (channels × kernel, filters), u8 × s8 to u8, timed in turns with the bundle. The
limit of the processor is the fastest of many sizes of that multiplication.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from common import Figure, Result, at_least, conclude, markdown, parser, run, show
from onnx import TensorProto, helper, numpy_helper

from googlenet_edge.console import bar
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.errors import EngineError

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


class Session:
    """A model on one thread whose nodes are timed by the runtime itself, until `times_us` asks for the times."""

    def __init__(self, model: bytes, feed: Callable[[str], dict[str, Any]], prefix: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(prefix)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._feed = feed(self._session.get_inputs()[0].name)

    def run(self) -> None:
        """`RUNS` inferences."""
        for _ in range(RUNS):
            self._session.run(None, self._feed)

    def nodes(self) -> dict[str, tuple[str, float]]:
        """(operator, median µs) by the name of the node, in the order in which they ran; the first round warms up."""
        events = msgspec.json.decode(Path(self._session.end_profiling()).read_bytes())
        found: dict[str, list[float]] = defaultdict(list)
        operators = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                found[name].append(event["dur"])
                operators[name] = event["args"]["op_name"]
        return {name: (operators[name], median(times[RUNS:])) for name, times in found.items()}


def main() -> None:
    """See the module."""
    options = parser(__doc__)
    options.add_argument("--bundle", type=Path, default=Path("runs/flowers/int8-cpu"), help="an INT8 bundle for cpu")
    options.add_argument("--rounds", type=at_least(2), default=15)
    arguments = options.parse_args()
    bundle = read_bundle(arguments.bundle)
    sizes = sizes_of(onnx.load_model_from_string(bundle.model))
    wanted = sorted({*sizes.values(), *LARGEST})
    circumstances = read_circumstances()
    with tempfile.TemporaryDirectory() as folder, bar("profiling") as progress:
        pixels = bundle.golden.pixels[:1]
        network = Session(bundle.model, lambda name: {name: pixels}, Path(folder, "network"))
        products = {
            each: Session(product(*each), numbers(each), Path(folder, "-".join(map(str, each)))) for each in wanted
        }
        for done in range(arguments.rounds):
            progress(done, arguments.rounds)
            for session in (network, *products.values()):
                session.run()
        progress(arguments.rounds, arguments.rounds)
        nodes = network.nodes()
        limits = {each: sum(us for _, us in session.nodes().values()) for each, session in products.items()}
    layers = [layer_of(name, operator, us, sizes, limits) for name, (operator, us) in nodes.items()]
    show(table_of(layers))
    fastest = max(float(np.prod(each)) / us / 1e3 for each, us in limits.items())
    conclude(Result(figures_of(layers, fastest), circumstances, layers), arguments.out)


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


def product(rows: int, depth: int, columns: int) -> bytes:
    """u8 (rows, depth) × s8 (depth, columns) → u8, each with one scale."""
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.integers(-127, 128, (depth, columns), np.int8), "weight"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
        numpy_helper.from_array(np.uint8(0), "zero"),
        numpy_helper.from_array(np.int8(0), "weight_zero"),
    ]
    inputs = ["x", "scale", "zero", "weight", "scale", "weight_zero", "scale", "zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", inputs, ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, depth])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [rows, columns])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def numbers(sizes: Sizes) -> Callable[[str], dict[str, Any]]:
    """What goes into `product`."""
    return lambda name: {name: np.random.default_rng(1).integers(0, 256, sizes[:2], np.uint8)}


def layer_of(name: str, operator: str, us: float, sizes: dict[str, Sizes], limits: dict[Sizes, float]) -> Layer:
    """A fused node is named after the node that it replaced, with a number behind."""
    plain = name.partition("_token_")[0]
    found = sizes.get(plain) if operator == "QLinearConv" else None
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
