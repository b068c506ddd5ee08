"""Files that are either whole or not there: atomic writes, hashes, and JSON that is checked while it is read."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from googlenet_edge.errors import EdgeError, OutputError

T = TypeVar("T")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_THERE = {errno.ENOTEMPTY, errno.EEXIST}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def is_name(text: str) -> bool:
    """Whether it can name a class: not empty, UTF-8, and nothing in it that steers a terminal or turns text.

    Independent of the version of Unicode, so that every Python and libgne take the same names.
    """
    return bool(text) and not _UNSEEN.search(text)


def real_path(path: Path) -> Path:
    """Where links lead; `Path.resolve` raises where they lead round in a circle, before Python 3.13."""
    return Path(os.path.realpath(path))


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; what is there at the end takes the name ``path`` in one step.

    After an exception, or a kill at any moment, ``path`` is what it was before. Where it is a link, what it leads to is
    replaced.

    Raises:
        OutputError: the folder cannot be made or written, the disk is full, or a folder or a device is there.
    """
    with _output_errors(path):
        path = real_path(path) if path.is_symlink() else path
        check_file_place(path)
        with _folder_beside(path) as folder:
            yield (temporary := folder / path.name)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: a new one, or one that takes the place of an older one, also where a link leads.

    Raises:
        OutputError: as `new_file`; also where ``path`` is a file.
    """
    with _output_errors(path):
        path = real_path(path) if path.is_symlink() else path
        if path.exists() and not path.is_dir():
            raise OutputError(f"cannot write the folder {path}: a file of that name is there; give another --out")
        with _folder_beside(path) as temporary:
            yield temporary
            try:
                temporary.replace(path)
            except OSError as problem:
                if problem.errno not in _THERE:
                    raise
                _exchange(temporary, path)


@contextmanager
def alone_in(folder: Path, *, error: type[EdgeError]) -> Iterator[None]:
    """Holds a folder, which is made where there is none, against other processes that ask to be alone in it, too.

    A process that ends, however it does, gives it back. A file system without locks holds nobody.

    Raises:
        OutputError: the folder cannot be made.
        error: another process has it.
    """
    with _output_errors(folder):
        _make_folder(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise error(f"another process writes into {folder}; wait for it, or give another --out") from problem
        yield
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file in one step. Raises `OutputError`."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes `to_json` of a value in one step. Raises `OutputError`."""
    write_bytes(path, to_json(value))


def check_file_place(path: Path) -> None:
    """Raises `OutputError` where something is at ``path`` that no file can take the place of."""
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is a folder, a device or a pipe; give another --out")


def check_writable(path: Path) -> None:
    """Raises `OutputError` where nothing can be written at ``path``: asked before minutes of work, not after."""
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror}; give another --out") from problem
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise OutputError(f"cannot write {path}: {above} is not a folder that can be written to; give another --out")


def to_json(value: Any) -> bytes:
    """A dataclass (or any JSON value) as indented JSON, the same bytes for the same value.

    A path that is not UTF-8 has ``\\xff`` for such a byte.
    """
    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_encodable(msgspec.to_builtins(value)))
    return msgspec.json.format(data, indent=2) + b"\n"


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(each) for each in value]
    return encodable_text(value) if isinstance(value, str) else value


def encodable_text(value: str) -> str:
    """A path as `to_json` writes it."""
    return os.fsencode(value).decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class _Versioned:
    schema: int


def from_versioned_json(
    data: bytes, kind: type[T], *, schema: int, where: str, error: type[EdgeError], older: str | None = None
) -> T:
    """`from_json` for what carries its ``schema``: one above ``schema`` is refused before anything else is read.

    So is one below it, where ``older`` says why.
    """
    found = from_json(data, _Versioned, where=where, error=error).schema
    if found > schema:
        raise error(f"{where} has schema {found}, this version reads up to {schema}; upgrade googlenet-edge")
    if found < schema and older:
        raise error(f"{where} has schema {found}, {older}")
    return from_json(data, kind, where=where, error=error)


def from_json(data: bytes, kind: type[T], *, where: str, error: type[EdgeError]) -> T:
    """JSON → a dataclass, with every type, range and required field checked.

    Args:
        where: how the message names the source, such as a path.
        error: the class to raise.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{where} cannot be read: {problem}") from problem


def read_file(path: Path, *, limit: int, error: type[EdgeError]) -> bytes:
    """The bytes of a file of at most ``limit`` bytes. Raises ``error`` where it is missing, unreadable or larger."""
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise error(f"{path} is no file but a device or a pipe; give a file")
        if found.st_size > limit:
            raise error(
                f"{path} has {found.st_size} bytes where at most {limit} are expected; it is not what it should be"
            )
        return path.read_bytes()
    except FileNotFoundError as problem:
        raise error(f"{path} is missing") from problem
    except ValueError as problem:  # a zero byte, or what no encoding has
        raise error(f"{str(path)!a} is no name of a file") from problem
    except IsADirectoryError as problem:
        raise error(f"{path} is a folder; give a file in it") from problem
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from problem


def text_in(path: Path, *, limit: int = 1 << 16) -> str | None:
    """The beginning of a file as the kernel and its like write them; nothing where it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            return (file.read(limit) or b"").decode(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as problem:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from problem


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A new folder, locked while something is written in it, and then removed, as far as it is still there.

    Numbers of processes would not do for a name: they are the same in every container.
    """
    _make_folder(path.parent)
    for left in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        _remove_stale(left)
    folder, descriptor = _locked_folder(f"{path.parent}/.{path.name}.tmp-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(prefix: str) -> tuple[Path, int]:
    """Made, opened and locked, unless another process took it for stale in between: then another one."""
    while True:
        folder = Path(f"{prefix}{os.urandom(4).hex()}")
        folder.mkdir()
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)


def _remove_stale(left: Path) -> None:
    """Removes what a killed process was writing; what nobody holds is that. Without locks, nothing is."""
    with suppress(OSError):
        descriptor = os.open(left, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two folders in one step (Linux ``renameat2``), so that no moment shows neither."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename and rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    aside = old.with_name(f"{old.name}.replaced-{new.name[-8:]}")  # a file system without exchange, such as NFS
    old.replace(aside)
    try:
        new.replace(old)
    except OSError:
        aside.replace(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or str(problem)
        mend = "free space or give" if problem.errno in _FULL else "give"
        raise OutputError(f"cannot write {path}: {reason}; {mend} another --out") from problem
