"""The wheel, which goes to devices: without the notes that nobody is shown, a quarter of it, and packed by Zopfli.

The programs stay the same line for line, so that a traceback there can be read beside the sources.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from zopfli.zlib import compress

_COMMANDS = "googlenet_edge/commands"

# What keeps its docstrings, with its public methods: help() shows what `googlenet_edge` exports, --help the commands.
SHOWN = {
    "googlenet_edge/__init__.py": ("", "load"),  # the module itself
    "googlenet_edge/errors.py": ("EdgeError",),
    "googlenet_edge/target.py": ("EngineName",),
    "googlenet_edge/preprocess.py": ("Preprocess",),
    "googlenet_edge/engines/predictor.py": ("Prediction", "Predictor"),
    "googlenet_edge/cli.py": ("_all",),
    f"{_COMMANDS}/engine.py": ("bench", "build", "evaluate", "inspect", "predict", "sensitivity"),
    f"{_COMMANDS}/machine.py": ("devices", "doctor"),
    f"{_COMMANDS}/model.py": ("calibrate", "demo", "export", "finetune", "prune", "slim", "train"),
    f"{_COMMANDS}/report.py": ("package", "report"),
}


def without_notes(source: str, path: str) -> str:
    """The same program on the same lines, without comments and without strings that are statements.

    Docstrings stay where they are `SHOWN`.
    """
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    program = ast.parse(source)
    shown = set(_shown(program, SHOWN.get(path, ())))
    for node in ast.walk(program):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) and node not in shown else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                    lines[first - 1 : last] = ["\n"] * (last - first + 1)
                    if len(body) == 1:
                        lines[first - 1] = " " * statement.col_offset + "...\n"
    return "".join(lines)


def _shown(program: ast.Module, names: tuple[str, ...]) -> Iterator[ast.AST]:
    """The module and those of its parts that have one of the names, and the public methods of classes among these."""
    for node in (program, *program.body):
        if getattr(node, "name", "") in names:
            yield node
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                name = getattr(method, "name", "_")
                if not name.startswith("_") or name.endswith("__"):
                    yield method


class BuildPy(build_py):
    """Copies modules, and takes the notes out of the copies; an editable installation reads the sources themselves."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Where the copy is, and whether it was made now."""
        path, copied = super().build_module(module, module_file, package)
        name = Path(path).relative_to(self.build_lib).as_posix()
        if not self.editable_mode:
            Path(path).write_text(without_notes(Path(path).read_text("utf-8"), name), "utf-8")
        return path, copied


class Zopfli:
    """A ``zlib.compressobj`` that takes its time: what it gives is some 3 % smaller, and any inflate reads it."""

    def __init__(self, *_: int) -> None:
        self._data = b""

    def compress(self, data: bytes) -> bytes:
        """Nothing yet: it looks at the whole file."""
        self._data += data
        return b""

    def flush(self) -> bytes:
        """All of it, raw: without zlib's header and checksum."""
        return compress(self._data)[2:-4]


class BdistWheel(bdist_wheel):
    """Packs with `Zopfli`."""

    def run(self) -> None:
        """As ever."""
        with patch("zlib.compressobj", Zopfli):
            super().run()


setup(cmdclass={"bdist_wheel": BdistWheel, "build_py": BuildPy})
