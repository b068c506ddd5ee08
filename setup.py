"""The wheel without the notes of inner modules: docstrings and comments are a quarter of it, and it goes to devices.

The programs stay the same line for line, so that a traceback there can be read beside the sources.
"""

from __future__ import annotations

import ast
import io
import tokenize
import zlib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "googlenet_edge/__init__.py"

# What is public here keeps its docstrings: commands show them as --help, and what `googlenet_edge` exports, help().
SHOWN = (
    PACKAGE,
    "googlenet_edge/cli.py",
    *(f"googlenet_edge/commands/{name}.py" for name in ("demo", "engine", "machine", "model", "report")),
    "googlenet_edge/engines/predictor.py",
    "googlenet_edge/preprocess.py",
)
EXPORTED = ("EdgeError", "EngineName")  # from modules of which nothing else is


def without_notes(source: str, path: str) -> str:
    """The same program on the same lines, without comments and without strings that are statements.

    Docstrings of public names stay in what is `SHOWN`, and those of what is `EXPORTED`; that of the module only where
    it is the package's.
    """
    module = "package" if path == PACKAGE else "_module"
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    for node in ast.walk(ast.parse(source)):
        body, name = getattr(node, "body", None), getattr(node, "name", None) or module
        is_public = not name.startswith("_") or name.endswith("__")
        if name in EXPORTED or (path.startswith(SHOWN) and is_public):
            continue
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                    lines[first - 1 : last] = ["\n"] * (last - first + 1)
                    if len(body) == 1:
                        lines[first - 1] = " " * statement.col_offset + "...\n"
    return "".join(lines)


zlib.Z_DEFAULT_COMPRESSION = zlib.Z_BEST_COMPRESSION  # which is how `zipfile` packs the wheel


class BuildPy(build_py):
    """Copies modules, and takes the notes out of the copies; an editable installation reads the sources themselves."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Where the copy is, and whether it was made now."""
        path, copied = super().build_module(module, module_file, package)
        name = Path(path).relative_to(self.build_lib).as_posix()
        if not self.editable_mode:
            Path(path).write_text(without_notes(Path(path).read_text("utf-8"), name), "utf-8")
        return path, copied


setup(cmdclass={"build_py": BuildPy})
