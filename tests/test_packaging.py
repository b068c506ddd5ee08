"""What a person gets who installs the wheel: one package name, nothing of torch, a command that works."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from importlib.metadata import PathDistribution, distribution
from pathlib import Path
from types import EllipsisType

import pytest
from measured import measured
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_architecture import MODULES, NEED_JINJA2, NEED_ONNX, NEED_OPENVINO, NEED_TORCH, needs
from tiny_bundles import colour_bundle, solid, write_colour_bundle

import googlenet_edge
from googlenet_edge.engines.bundle import write_bundle
from googlenet_edge.files import write_json
from googlenet_edge.target import Device

ROOT = Path(__file__).parents[1]
SOURCES = ("googlenet_edge", "calibration", "engines")
MAX_WHEEL_BYTES = 300_000


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def setuptools_build(kind: str, source: Path, out: Path) -> Path:
    """Builds a "wheel" or "sdist" of ``source`` with the setuptools at hand: no network, nothing written elsewhere."""
    out.mkdir(exist_ok=True)
    run(sys.executable, "-c", f"from setuptools.build_meta import *; build_{kind}({str(out)!r})", cwd=source)
    [built] = out.iterdir()
    return built


def modules_in_repository() -> set[str]:
    """The paths that the modules, and the page of a report, have once they are installed."""
    kinds = ("*.py", "*.html", "*.css")
    packages = {path.relative_to(ROOT) for folder in SOURCES for kind in kinds for path in (ROOT / folder).rglob(kind)}
    outside = {Path("googlenet_edge") / path for path in packages if path.parts[0] != "googlenet_edge"}
    inside = {path for path in packages if path.parts[0] == "googlenet_edge"}
    return {path.as_posix() for path in inside | outside}


def files_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, links kept, as a clone has it."""
    copy = tmp_path_factory.mktemp("source")
    for path in map(ROOT.joinpath, (*SOURCES, "cli.py", "pyproject.toml", "setup.py", "README.md", "LICENSE")):
        if path.is_dir():
            shutil.copytree(path, copy / path.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return setuptools_build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def base_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel and what its base dependencies need, and nothing more."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    [site_packages] = folder.glob("lib/python*/site-packages")
    for name in needed_by(metadata_of(wheel)):
        link_distribution(name, site_packages)
    return python


def metadata_of(wheel: Path) -> PathDistribution:
    """What an installer reads in the wheel."""
    [info] = [entry for entry in zipfile.Path(wheel).iterdir() if entry.name.endswith(".dist-info")]
    return PathDistribution(info)


def needed_by(package: PathDistribution) -> set[str]:
    """Names of all distributions that ``package`` needs without an extra, directly or not."""
    names: set[str] = set()
    waiting = list(package.requires or [])
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in names:
            names.add(requirement.name)
            waiting += distribution(requirement.name).requires or []
    return names


def link_distribution(name: str, site_packages: Path) -> None:
    """Makes an installed distribution importable from another environment."""
    package = distribution(name)
    for top in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        link = site_packages / top
        if not link.exists():
            link.symlink_to(str(package.locate_file(top)))


def test_wheel_holds_every_module_below_one_name(wheel: Path) -> None:
    files = {name for name in files_in(wheel) if ".dist-info/" not in name}
    assert files == modules_in_repository() | {"googlenet_edge/py.typed"}
    assert {"googlenet_edge/calibration/__init__.py", "googlenet_edge/engines/__init__.py"} < files


def test_wheel_is_small_and_carries_the_license(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES
    [name] = [name for name in files_in(wheel) if name.endswith("/LICENSE")]
    assert zipfile.ZipFile(wheel).read(name) == (ROOT / "LICENSE").read_bytes()


def program_of(source: str) -> str:
    """The syntax tree with the line that each part begins on, without what only explains."""

    class Program(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST | None:
            match node:
                case ast.Expr(value=ast.Constant(value=str() | EllipsisType())):
                    return None
            node.end_lineno = node.end_col_offset = None
            return super().generic_visit(node)

    return ast.dump(Program().visit(ast.parse(source)), include_attributes=True)


def test_wheel_holds_the_same_programs_line_for_line(wheel: Path) -> None:
    built = zipfile.ZipFile(wheel)
    for name in sorted(name for name in files_in(wheel) if name.endswith(".py")):
        source = ROOT / name if (ROOT / name).exists() else ROOT / name.removeprefix("googlenet_edge/")
        assert program_of(built.read(name).decode()) == program_of(source.read_text()), name


def test_installed_package_explains_what_it_exports_and_its_commands(base_python: Path, tmp_path: Path) -> None:
    program = """
import inspect
import googlenet_edge
shown = [getattr(googlenet_edge, name) for name in googlenet_edge.__all__ if name not in ("ImageSource", "__version__")]
shown += [method for name, method in inspect.getmembers(googlenet_edge.Predictor) if not name.startswith("_")]
assert len(shown) > 10
from googlenet_edge.cli import VERBS
shown += [verb for verbs in VERBS.values() for verb in verbs]
assert len(shown) > 25
print(*(each for each in shown if not inspect.getdoc(each)))
"""
    assert run(base_python, "-c", program, cwd=tmp_path) == "\n"


def test_wheel_from_the_source_distribution_is_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    archive = setuptools_build("sdist", source, tmp_path / "sdist")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert files_in(setuptools_build("wheel", unpacked, tmp_path / "wheel")) == files_in(wheel)


def test_wheel_that_goes_to_a_device_is_the_one_that_is_built(base_python: Path, wheel: Path, tmp_path: Path) -> None:
    """Packed by the installed package itself, where there are neither sources nor setuptools."""
    program = """
import sys
from pathlib import Path
from googlenet_edge.engines.wheel import pack_wheel
packed = pack_wheel()
Path(packed.name).write_bytes(packed.data)
"""
    run(base_python, "-c", program, cwd=tmp_path)
    packed, built = (zipfile.ZipFile(path) for path in (tmp_path / wheel.name, wheel))
    about_itself = (".dist-info/RECORD", ".dist-info/WHEEL", ".dist-info/top_level.txt", ".dist-info/licenses/LICENSE")
    names = [name for name in built.namelist() if not name.endswith(about_itself)]
    assert sorted(name for name in packed.namelist() if not name.endswith(about_itself)) == sorted(names)
    assert [packed.read(name) for name in names] == [built.read(name) for name in names]
    run(
        sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", "there", wheel.name, cwd=tmp_path
    )
    assert (tmp_path / "there" / "googlenet_edge" / "engines" / "remote_worker.py").exists()


def test_installed_command_shows_its_help_in_another_folder(base_python: Path, tmp_path: Path) -> None:
    shown = run(base_python.with_name("gnet-edge"), "--help", cwd=tmp_path)
    for command in ("train", "build", "bench", "predict"):
        assert command in shown
    assert "Start with: gnet-edge demo" in shown


def test_installed_package_imports_without_torch_and_onnx(base_python: Path, tmp_path: Path) -> None:
    names = [
        module.name for module in MODULES if not needs(module, NEED_TORCH | NEED_ONNX | NEED_OPENVINO | NEED_JINJA2)
    ]
    assert "googlenet_edge.engines.predictor" in names
    program = """
import importlib, importlib.util, sys
absent = ("torch", "onnx", "openvino", "jinja2", "calibration", "engines", "cli")
assert not any(map(importlib.util.find_spec, absent))
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    assert module.__file__.startswith(sys.prefix), module.__file__
"""
    run(base_python, "-c", program, *names, cwd=tmp_path)


def test_installed_package_compiles_a_bundle_without_torch_and_onnx(base_python: Path, tmp_path: Path) -> None:
    """As far as it goes without TensorRT, of which the error is."""
    bundle = colour_bundle()
    write_bundle(tmp_path / "bundle", replace(bundle, manifest=replace(bundle.manifest, device=Device.ORIN_NANO)))
    command = [str(base_python.with_name("gnet-edge")), "build", "bundle"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gnet-edge: tensorrt cannot be loaded")


def test_installed_package_predicts_without_torch_and_onnx(base_python: Path, tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    solid("blue").save(tmp_path / "blue.png")
    program = """
import googlenet_edge
with googlenet_edge.load("bundle") as model:
    print(model.predict("blue.png", top_k=1)[0].label)
"""
    assert run(base_python, "-c", program, cwd=tmp_path) == "blue\n"
    command = base_python.with_name("gnet-edge")
    shown = json.loads(
        run(command, "predict", "blue.png", "--bundle", "bundle", "--top-k", "1", "--json", cwd=tmp_path)
    )
    assert [prediction["label"] for prediction in shown["blue.png"]] == ["blue"]


def test_installed_command_names_the_extra_that_training_needs(base_python: Path, tmp_path: Path) -> None:
    command = [base_python.with_name("gnet-edge"), "train", "--data", "photos"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    sentence = "gnet-edge: this needs torch; install it with: pip install 'googlenet-edge[build]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_installed_command_names_the_extra_that_an_engine_needs(base_python: Path, tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    solid("blue").save(tmp_path / "blue.png")
    command = [base_python.with_name("gnet-edge"), "predict", "blue.png", "--bundle", "bundle", "--engine", "openvino"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    sentence = (
        "gnet-edge: the engine openvino cannot be loaded (No module named 'openvino'); install it with:"
        " pip install 'googlenet-edge[openvino]', or choose another engine\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_installed_command_reports_as_text_and_names_the_extra_that_a_page_needs(
    base_python: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "m.json", measured())
    command = [base_python.with_name("gnet-edge"), "report", "m.json"]
    run(*command, "-o", "r.md", cwd=tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    sentence = "gnet-edge: this needs jinja2; install it with: pip install 'googlenet-edge[report]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_constraints_pin_every_dependency(wheel: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    named = {canonicalize_name(Requirement(line).name) for line in metadata_of(wheel).requires or []}
    unseen = {"tensorrt", "pycuda"}  # the extra [tensorrt], for which a GPU is needed
    assert named - {pin.name for pin in pins} == {"googlenet-edge"} | unseen  # the extra [dev] names the extra [build]


def test_version_is_the_same_in_package_metadata_and_changelog(wheel: Path) -> None:
    assert wheel.name == f"googlenet_edge-{googlenet_edge.__version__}-py3-none-any.whl"
    newest = re.search(r"^## \[(.+?)\] - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == googlenet_edge.__version__
