"""The rules that keep the layers apart, read from the source: imports go down, heavy packages stay where they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40

UPPER = ("googlenet_edge.calibration", "googlenet_edge.engines", "googlenet_edge.commands", "googlenet_edge.cli")

# What a layer may not import. `googlenet_edge.load` is the one door upwards, opened when it is called.
FORBIDDEN = {
    "googlenet_edge": UPPER,
    "googlenet_edge.calibration": UPPER[1:],
    "googlenet_edge.engines": UPPER[2:],
    "googlenet_edge.commands": UPPER[3:],
    "googlenet_edge.cli": (),
}
DOOR_UPWARDS = ("googlenet_edge", "googlenet_edge.engines.predictor")

# Modules that need the extra [build]. All others run on a device, where neither torch nor onnx is installed.
NEED_TORCH = {
    "googlenet_edge.augment",
    "googlenet_edge.calibration.fake_quantization",
    "googlenet_edge.checkpoint",
    "googlenet_edge.convolution",
    "googlenet_edge.descent",
    "googlenet_edge.distil",
    "googlenet_edge.export",
    "googlenet_edge.model",
    "googlenet_edge.parallel",
    "googlenet_edge.pretrained",
    "googlenet_edge.slim",
    "googlenet_edge.train",
    "googlenet_edge.training_loop",
    "googlenet_edge.training_state",
}
NEED_ONNX = {
    "googlenet_edge.export",
    "googlenet_edge.foreign",
    "googlenet_edge.graph",
    "googlenet_edge.calibration",
    "googlenet_edge.engines.build",
    "googlenet_edge.engines.checkpoint_source",
    "googlenet_edge.engines.finetune",
    "googlenet_edge.engines.lowering",
    "googlenet_edge.engines.package",
    "googlenet_edge.engines.recovery",
    "googlenet_edge.engines.sensitivity",
    "googlenet_edge.engines.slimming",
    "googlenet_edge.engines.source",
    "googlenet_edge.engines.stopwatch",
    "googlenet_edge.engines.trials",
}
# The only ones that need the extra [openvino].
NEED_OPENVINO = {"googlenet_edge.engines.openvino_cpu"}

# The only one that needs the extra [report].
NEED_JINJA2 = {"googlenet_edge.engines.report.write"}

# A package, and the modules (or packages of ours) that may import it.
KEEPERS: dict[str, set[str]] = {
    "torch": NEED_TORCH,
    "safetensors": NEED_TORCH,
    "onnx": NEED_ONNX,
    "threadpoolctl": {"googlenet_edge.calibration.calibrate"},
    "openvino": NEED_OPENVINO,
    "typer": {"googlenet_edge.cli", "googlenet_edge.commands"},
    "jinja2": NEED_JINJA2,
    "rich": {"googlenet_edge.console", "googlenet_edge.engines.tables"},
    "pickle": set(),
    "calibration": set(),
    "engines": set(),
    "cli": set(),
}

# A keyword argument, and the only value it may have: no shell reads our strings, no file runs code while it is loaded.
SAFE_KEYWORDS = {"shell": False, "allow_pickle": False, "weights_only": True}


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its installed name, where it stands, and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def layer(self) -> str:
        return next(layer for layer in sorted(FORBIDDEN, reverse=True) if within(self.name, layer))

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def needs(module: Module, keepers: set[str]) -> bool:
    return any(within(module.name, keeper) for keeper in keepers)


def parse(source: str, name: str = "googlenet_edge.sample", path: Path = Path("sample.py")) -> Module:
    return Module(name, path, ast.parse(source))


def all_modules() -> list[Module]:
    modules = []
    for folder in ("googlenet_edge", "calibration", "engines"):
        package = folder if folder == "googlenet_edge" else f"googlenet_edge.{folder}"
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = (package, *file.relative_to(ROOT / folder).with_suffix("").parts)
            name = ".".join(part for part in parts if part != "__init__")
            modules.append(parse(file.read_text(), name, file.relative_to(ROOT)))
    return modules


Rule = Callable[[Module], Iterator[str]]
MODULES = all_modules()
BELOW_THE_COMMAND_LINE = [module for module in MODULES if module.name != "googlenet_edge.cli"]


def imports(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Every import, lazy ones too: the node, and the full name of each thing that it names."""
    for node in module.nodes():
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def imports_upwards(module: Module) -> Iterator[str]:
    for node, target in imports(module):
        is_door = module.name == DOOR_UPWARDS[0] and within(target, DOOR_UPWARDS[1]) and node not in module.tree.body
        if not is_door and any(within(target, above) for above in FORBIDDEN[module.layer]):
            yield f"{module.at(node)} imports {target}, which is above {module.layer}"


def imports_of_kept_packages(module: Module) -> Iterator[str]:
    for node, target in imports(module):
        for package, keepers in KEEPERS.items():
            if within(target, package) and not needs(module, keepers):
                yield f"{module.at(node)} imports {target}; only {sorted(keepers) or 'nobody'} may"


def prints(module: Module) -> Iterator[str]:
    for node in module.nodes():
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"{module.at(node)} prints; only cli.py may"


def unsafe_calls(module: Module) -> Iterator[str]:
    for call in module.nodes():
        if not isinstance(call, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        for name, safe in SAFE_KEYWORDS.items():
            if name in keywords and ast.unparse(keywords[name]) != str(safe):
                yield f"{module.at(call)}: {name} must be {safe}"
        function = ast.unparse(call.func)
        if function == "torch.load" and "weights_only" not in keywords:
            yield f"{module.at(call)}: torch.load needs weights_only=True"
        if function in ("eval", "exec", "os.system", "os.popen"):
            yield f"{module.at(call)} calls {function}"


def long_functions(module: Module) -> Iterator[str]:
    for node in module.nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{module.at(node)}: the body of {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


def long_files(module: Module) -> Iterator[str]:
    last = max((getattr(node, "end_lineno", 0) for node in module.tree.body), default=0)
    if last > MAX_FILE_LINES:
        yield f"{module.path} has {last} lines, at most {MAX_FILE_LINES}"


def found(rule: Rule, modules: list[Module]) -> list[str]:
    return [problem for module in modules for problem in rule(module)]


def test_architecture_imports_go_down_only() -> None:
    assert found(imports_upwards, MODULES) == []


def test_architecture_heavy_packages_stay_where_they_are() -> None:
    assert found(imports_of_kept_packages, MODULES) == []


def test_architecture_only_the_command_line_prints() -> None:
    assert found(prints, BELOW_THE_COMMAND_LINE) == []


def test_architecture_nothing_loads_code_or_starts_a_shell() -> None:
    assert found(unsafe_calls, MODULES) == []


def test_architecture_page_names_every_module_and_none_that_is_gone() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = {Path(path).name for path in re.findall(r"[\w/.-]+\.(?:py|cpp|hpp|h)\b", page)}
    sources = ("cli.py", "setup.py", "googlenet_edge", "calibration", "engines", "benchmarks", "tests")
    there = {path.name for source in sources for path in ((ROOT / source), *(ROOT / source).rglob("*"))}
    modules = {module.path.name for module in MODULES} - {"__init__.py"}
    assert (sorted(modules - named), sorted(named - there)) == ([], [])


@pytest.mark.parametrize("rule", [long_functions, long_files])
def test_architecture_functions_and_files_stay_short(rule: Rule) -> None:
    assert found(rule, MODULES) == []


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (imports_upwards, "googlenet_edge.files", "def f():\n    import googlenet_edge.engines.bundle"),
        (imports_upwards, "googlenet_edge", "from googlenet_edge.engines.predictor import load"),
        (imports_upwards, "googlenet_edge.calibration.table", "from googlenet_edge import engines"),
        (imports_upwards, "googlenet_edge.engines.bench", "from googlenet_edge.cli import main"),
        (imports_of_kept_packages, "googlenet_edge.engines.bench", "def f():\n    from torch.nn import Linear"),
        (imports_of_kept_packages, "googlenet_edge.files", "import pickle"),
        (imports_of_kept_packages, "googlenet_edge.cli", "from engines import bench"),
        (prints, "googlenet_edge.files", "print('x')"),
        (unsafe_calls, "googlenet_edge.files", "subprocess.run('ls', shell=True)"),
        (unsafe_calls, "googlenet_edge.files", "torch.load(path)"),
        (unsafe_calls, "googlenet_edge.files", "np.load(path, allow_pickle=flag)"),
        (long_functions, "googlenet_edge.files", "def f():\n" + "    x = 1\n" * 41),
        (long_files, "googlenet_edge.files", "x = 1\n" * 401),
    ],
)
def test_architecture_rule_sees_a_violation(rule: Rule, name: str, source: str) -> None:
    assert len(found(rule, [parse(source, name)])) == 1


def test_architecture_allows_the_door_upwards() -> None:
    source = (
        "def load(path):\n    from googlenet_edge.engines.predictor import load_bundle\n    return load_bundle(path)"
    )
    assert found(imports_upwards, [parse(source, "googlenet_edge")]) == []
