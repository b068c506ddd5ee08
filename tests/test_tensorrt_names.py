"""What of TensorRT's interface the code touches: each name with the versions that have it, so that none slips in.

Sources: TensorRT's release notes and API reference, 8.5 to 11; the names of 10.13 were held against `tensorrt-stubs`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALWAYS = "8.5 to 11"
GUARDS = {
    "flavour",
    "Flavour",
    "version",
    "recipe",
    "Recipe",
    "hasattr",
    "unit",
    "targets",
    "calibrator_of",
    "_filled",
}
"""Words by which a function, or who calls it, tells versions apart."""

OWNERS = {
    **{
        "trt": "tensorrt",
        "module": "tensorrt",
        "library.module": "tensorrt",
        "library.trt": "tensorrt",
        "known": "NetworkDefinitionCreationFlag",
    },
    **{"builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser"},
    **{"self._runtime": "Runtime", "self._engine": "ICudaEngine", "engine": "ICudaEngine"},
    **{"self._context": "IExecutionContext", "cache": "ITimingCache"},
    **{"runtime_config": "IRuntimeConfig", "kernels": "IRuntimeCache"},
    **{f"trt.{name}": name for name in ("BuilderFlag", "DataType", "DeviceType", "MemoryPoolType")},
    **{"library.trt.DeviceType": "DeviceType", "library.trt.LayerType": "LayerType"},
    **{"trt.ProfilingVerbosity": "ProfilingVerbosity", "module.ILogger": "ILogger"},
}

NAMES = {
    "tensorrt": dict.fromkeys(
        ("Builder", "BuilderFlag", "DataType", "DeviceType", "ILogger", "LayerType", "MemoryPoolType", "OnnxParser",
         "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "Runtime", "__version__"), ALWAYS,
    ) | {"ComputeCapability": "RTX", "IProgressMonitor": "9 to 11", "IInt8EntropyCalibrator2": "8.5 to 10"},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": "8.5 to 10", "STRONGLY_TYPED": "9 to 11"},
    "BuilderFlag": {"GPU_FALLBACK": ALWAYS, "TF32": ALWAYS},
    "DataType": {"FLOAT": ALWAYS, "UINT8": ALWAYS},
    "DeviceType": {"DLA": ALWAYS, "GPU": ALWAYS},
    "LayerType": {"CONVOLUTION": ALWAYS},
    "MemoryPoolType": {"WORKSPACE": ALWAYS},
    "ProfilingVerbosity": {"DETAILED": ALWAYS},
    "ILogger": {"WARNING": ALWAYS, "__init__": ALWAYS},
    "Builder": dict.fromkeys(
        ("build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile",
         "num_DLA_cores"), ALWAYS
    ),
    "IBuilderConfig": dict.fromkeys(
        ("DLA_core", "add_optimization_profile", "avg_timing_iterations", "clear_flag", "create_timing_cache",
         "default_device_type", "get_timing_cache",
         "profiling_verbosity", "set_device_type", "set_flag", "set_memory_pool_limit", "set_timing_cache"), ALWAYS,
    ) | {
        "builder_optimization_level": "8.6 to 11", "progress_monitor": "9 to 11",
        "int8_calibrator": "8.5 to 10", "set_calibration_profile": "8.5 to 10",
        "num_compute_capabilities": "RTX", "set_compute_capability": "RTX",
    },
    "INetworkDefinition": dict.fromkeys(("get_input", "get_layer", "num_layers"), ALWAYS),
    "OnnxParser": dict.fromkeys(("get_error", "num_errors", "parse"), ALWAYS),
    "Runtime": {"DLA_core": ALWAYS, "deserialize_cuda_engine": ALWAYS},
    "ICudaEngine": dict.fromkeys(
        ("create_execution_context", "get_tensor_dtype", "get_tensor_name", "get_tensor_profile_shape",
         "get_tensor_shape", "num_io_tensors"), ALWAYS,
    ) | {"create_runtime_config": "RTX"},
    "IRuntimeConfig": {"create_runtime_cache": "RTX", "set_runtime_cache": "RTX"},
    "IRuntimeCache": {"deserialize": "RTX", "serialize": "RTX"},
    "IExecutionContext": dict.fromkeys(("execute_async_v3", "set_input_shape", "set_tensor_address"), ALWAYS),
    "ITimingCache": {"serialize": ALWAYS},
}  # fmt: skip


def uses(source: str) -> Iterator[tuple[str, str, set[str]]]:
    """(owner, name, the words of the function around it) of every attribute of an object of TensorRT's."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (owner := OWNERS.get(ast.unparse(node.value))):
            around = [each for each in functions if each.lineno <= node.lineno <= (each.end_lineno or 0)]
            words = {w.id for f in around for w in ast.walk(f) if isinstance(w, ast.Name)}
            words |= {w.attr for f in around for w in ast.walk(f) if isinstance(w, ast.Attribute)}
            yield owner, node.attr, words | {f.name for f in around}


@pytest.fixture(scope="module")
def used() -> list[tuple[str, str, set[str]]]:
    files = [*sorted((ROOT / "engines").glob("tensorrt_*.py"))]
    return [use for path in files for use in uses(path.read_text()) if use[:2] != ("ICudaEngine", "plan")]


def test_names_are_those_of_the_table(used: list[tuple[str, str, set[str]]]) -> None:
    assert {(owner, name) for owner, name, _ in used} == {(owner, name) for owner in NAMES for name in NAMES[owner]}


def test_names_that_a_version_lacks_are_used_where_versions_are_told_apart(
    used: list[tuple[str, str, set[str]]],
) -> None:
    bare = {f"{owner}.{name}" for owner, name, words in used if NAMES[owner][name] != ALWAYS and not words & GUARDS}
    assert not bare


@pytest.mark.rtx
def test_names_of_tensorrt_for_rtx_are_there() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    owners = {owner: rtx if owner == "tensorrt" else getattr(rtx, owner) for owner in NAMES}
    named = [(owner, name) for owner in NAMES for name, versions in NAMES[owner].items() if versions in ("RTX", ALWAYS)]
    assert not [(owner, name) for owner, name in named if not hasattr(owners[owner], name)]


def test_a_call_that_was_removed_would_be_found() -> None:
    old = "def run(engine):\n    return engine.get_binding_index('pixels')\n"
    [(owner, name, _)] = uses(old)
    assert name not in NAMES[owner]
