"""Where results cannot go, and processes that are killed while they write: whole or not there, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command import Built, contents, copy_of, done, gnet_edge, refused_without_a_trace
from tiny_bundles import solid, write_colour_bundle

from googlenet_edge.console import bar, shown
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.errors import OutputError
from googlenet_edge.files import write_bytes
from googlenet_edge.pictograms import write_pictograms


@pytest.fixture(scope="module")
def work(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after training and building, without settings. The tests here prove that they leave it alone."""
    folder = copy_of(built.folder, tmp_path_factory.mktemp("bad_input") / "work")
    (folder / "gnet-edge.toml").unlink()
    return folder


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Files cannot grow beyond ``free`` bytes: what a full disk looks like to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_no_file_and_keeps_the_old_bundle(work: Path) -> None:
    checkpoint = "runs/photos/checkpoint.safetensors"
    with full_disk(100_000):
        refused_without_a_trace(
            "cannot write runs/photos/pruned.safetensors: File too large; free space or give another --out",
            *("prune", checkpoint),
            cwd=work,
        )
        refused_without_a_trace(
            r"cannot write runs/photos/\.fp32-cpu\.tmp-.*: File too large; free space or give another --out",
            *("build", checkpoint, "--data", "photos", "--precision", "fp32"),
            cwd=work,
        )
    assert read_bundle(work / "runs/photos/fp32-cpu").class_names


def test_full_disk_where_the_graph_goes_is_not_mended_by_an_option(work: Path) -> None:
    """``--out`` of a build names the bundle only, and the ranking of layers, which makes the same graph, has none."""
    other = Path("runs/other/checkpoint.safetensors")
    (work / other).parent.mkdir()
    os.link(work / "runs/photos/checkpoint.safetensors", work / other)
    sentence = "cannot write runs/other/googlenet.onnx: File too large; free space or give a copy of the network in"
    for command in (("sensitivity", "--images", "8"), ("build", "--precision", "fp32", "--out", "bundle")):
        with full_disk(100_000):
            refused_without_a_trace(f"{sentence} another folder", *command, other, "--data", "photos", cwd=work)
    shutil.rmtree((work / other).parent)


def test_result_on_a_full_disk_is_no_success(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    solid("red").save(tmp_path / "red.png")
    command = [Path(sys.executable).with_name("gnet-edge"), "predict", "red.png", "--bundle", "bundle", "--json"]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}  # as on most machines: the disk is found full at the end
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    last = found.stderr.splitlines()[-1]
    assert (found.returncode, last) == (
        1,
        "gnet-edge: cannot write the result on stdout: No space left on device; free space",
    )


def test_output_that_cannot_be_is_refused_before_the_work(work: Path) -> None:
    checkpoint = "runs/photos/checkpoint.safetensors"
    file = "runs/photos/run.json"
    refused_without_a_trace(
        f"cannot write {file}/below: .*{file} is not a folder that can be written to; give another --out",
        *("build", checkpoint, "--data", "photos", "--out", f"{file}/below"),
        cwd=work,
    )
    for name in ("sub", "labels.txt/below"):
        bundle = "runs/photos/int8-cpu"
        refused_without_a_trace(
            f"cannot write {bundle}/{name}: .*{bundle} is a bundle; give another --out",
            *("build", checkpoint, "--data", "photos", "--out", f"{bundle}/{name}"),
            cwd=work,
        )
    refused_without_a_trace(
        r"photos holds pictograms\.json, which is no part of a bundle; give another --out, or remove it",
        *("build", checkpoint, "--data", "photos", "--out", "photos"),
        cwd=work,
    )
    refused_without_a_trace(
        f"cannot write {file}/m.json: .*{file} is not a folder that can be written to; give another --out",
        *("bench", "--out", f"{file}/m.json"),
        cwd=work,
    )


def test_report_and_demo_are_kept_out_of_a_bundle(work: Path) -> None:
    bundle = "runs/photos/int8-cpu"
    (work / "m.json").write_text("{}")
    for place, command in {
        "report.html": ("report", "m.json", "--out", f"{bundle}/report.html"),
        "sub/report.md": ("report", "m.json", "--out", f"{bundle}/sub/report.md"),
        "demo/images": ("demo", f"{bundle}/demo"),
    }.items():
        option = "FOLDER" if command[0] == "demo" else "--out"  # demo has no --out
        sentence = f"cannot write {bundle}/{place}: .*{bundle} is a bundle; give another {option}"
        refused_without_a_trace(sentence, *command, cwd=work)
    (work / "m.json").unlink()


def test_folder_of_a_checkpoint_that_cannot_be_written_to_is_named(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root, too, who may write everywhere."""
    work = copy_of(built.folder, tmp_path / "work")
    (work / "runs/photos/calibration.json").unlink()
    (work / "gnet-edge.toml").unlink()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).parts[-2:] != ("runs", "photos"))
    refused_without_a_trace(
        "runs/photos cannot be written to, where the graph and the calibration table go; give a copy of the network in"
        " another folder",
        *("build", "runs/photos/checkpoint.safetensors", "--data", "photos", "--out", "bundle"),
        cwd=work,
    )
    refused_without_a_trace(
        "runs/photos cannot be written to, where .*",
        *("sensitivity", "runs/photos/checkpoint.safetensors", "--data", "photos"),
        cwd=work,
    )
    done(
        "build", "runs/photos/checkpoint.safetensors", "--data", "photos", "--out", "b", "--precision", "fp32", cwd=work
    )


SOURCES = {
    "prune": ("checkpoint.safetensors",),
    "finetune": ("checkpoint.safetensors", "--data", "photos"),
    "export": ("checkpoint.safetensors", "--data", "photos"),
    "calibrate": ("googlenet.onnx", "--data", "photos"),
    "bench": ("int8-cpu",),
    "eval": ("int8-cpu", "--data", "photos"),
}


@pytest.mark.parametrize(
    ("command", "place", "reason"),
    [
        ("prune", "checkpoint.safetensors", "that is the name of something else"),
        ("finetune", "pruned.safetensors", "that is the name of something else"),
        ("export", "checkpoint.safetensors", "let its name end with .onnx"),
        ("calibrate", "googlenet.onnx", "let its name end with .json"),
        ("calibrate", "run.json", "that is the name of something else"),
        ("bench", "calibration.json", "that is the name of something else"),
        ("bench", "checkpoint.safetensors", "let its name end with .json"),
        ("eval", "int8-cpu/answers.json", ".*int8-cpu is a bundle"),
        ("eval", "pipe.json", "it is a folder, a device or a pipe"),
        ("bench", "folder.json", "it is a folder, a device or a pipe"),
    ],
)
def test_output_in_the_place_of_something_else_is_refused(command: str, place: str, reason: str, work: Path) -> None:
    run, (source, *more) = Path("runs/photos"), SOURCES[command]
    with made_here(work / run):
        refused_without_a_trace(
            f"cannot write {run / place}: {reason}(; give another --out)?",
            *(command, run / source, *more, "--out", run / place),
            cwd=work,
        )


@contextmanager
def made_here(folder: Path) -> Iterator[None]:
    """A pipe and a folder with the names of results."""
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    try:
        yield
    finally:
        (folder / "pipe.json").unlink()
        (folder / "folder.json").rmdir()


def test_output_is_not_what_is_read(work: Path, tmp_path: Path) -> None:
    shutil.copy(work / "runs/photos/checkpoint.safetensors", tmp_path / "mine.safetensors")
    sentence = "cannot write mine.safetensors: it is what is read; give another --out"
    refused_without_a_trace(sentence, "prune", "mine.safetensors", "--out", "mine.safetensors", cwd=tmp_path)


def test_output_through_a_link_replaces_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_bytes(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"new"


def test_output_under_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*: File name too long; give another --out"):
        write_bytes(tmp_path / ("x" * 300), b"new")


def test_output_at_a_link_to_itself_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    write_bytes(tmp_path / "loop", b"new")
    assert (tmp_path / "loop").read_bytes() == b"new"


def test_a_bundle_at_a_link_that_leads_nowhere_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    checkpoint = work / "runs/photos/checkpoint.safetensors"
    refused_without_a_trace(
        "cannot write loop: it is a link that leads nowhere; give another --out",
        *("build", checkpoint, "--data", work / "photos", "--out", "loop"),
        cwd=tmp_path,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "red.png", "--threads", "257"),
        ("bench", "--streams", "257"),
        ("build", "--max-drop", "inf"),
        ("train", "--data", "photos", "--seed", str(2**32)),
        ("train", "--data", "photos", "--workers", "257"),
    ],
)
def test_numbers_that_no_machine_has_are_refused_where_they_are_typed(arguments: tuple[str, ...], work: Path) -> None:
    outcome = gnet_edge(*arguments, cwd=work)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"Invalid value for '{arguments[-2]}'" in outcome.err


def test_output_takes_the_place_of_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: it is a folder, a device or a pipe; give another --out"):
        write_bytes(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&-", 1, "gnet-edge: cannot write the result on stdout: it is closed\n"),
    ],
)
def test_streams_that_are_closed_cost_no_result(tmp_path: Path, streams: str, code: int, said: str) -> None:
    """As services are started."""
    write_colour_bundle(tmp_path / "bundle")
    solid("red").save(tmp_path / "red.png")
    program = shlex.quote(str(Path(sys.executable).with_name("gnet-edge")))
    line = f"{program} predict red.png --bundle bundle --json {streams}"
    found = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr[-len(said) :] if said else found.stderr) == (code, said)
    if code == 0:
        assert json.loads(found.stdout)["red.png"][0]["label"] == "red"


def test_words_that_nobody_reads_any_more_cost_no_result(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    solid("red").save(tmp_path / "red.png")
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(Path(sys.executable).with_name("gnet-edge")), "predict", "red.png", "--bundle", "bundle", "--json"]
    found = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert found.returncode == 0
    assert json.loads(found.stdout)["red.png"][0]["label"] == "red"


def test_terminal_that_is_closed_meanwhile_costs_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    terminal = os.fdopen(slave, "w")
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("measuring") as progress:
        progress(1, 2)
        os.close(master)
    shown("a table")
    with pytest.raises(OSError, match="Input/output error"):
        terminal.close()


def test_a_warning_under_a_progress_bar_has_a_line_of_its_own() -> None:
    program = (
        "import logging, os\n"
        "from googlenet_edge.console import bar, run_command\n"
        "def command():\n"
        "    with bar('measuring') as progress:\n"
        "        progress(1, 2)\n"
        "        logging.getLogger('googlenet_edge').warning('a\\x1b[31m bar')\n"
        "        if not (child := os.fork()):\n"
        "            logging.getLogger('googlenet_edge').warning('of a loader')\n"
        "            os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "run_command(command)\n"
    )
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=slave, stdin=slave, env={**os.environ, "TERM": "xterm"}
    )
    os.close(slave)
    seen = b""
    with suppress(OSError):  # nobody has the other side any more
        while part := os.read(master, 4096):
            seen += part
    os.close(master)
    assert process.wait() == 0
    assert b"measuring" in seen
    assert re.search(rb"\x1b\[2Kgnet-edge: a\\x1b\[31m bar\r\n", seen)
    assert b"gnet-edge: of a loader\r\n" in seen


def test_a_name_that_is_no_utf8_is_escaped_in_json_and_in_words(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    name = os.fsdecode(b"\xffred\x1b[31m.png")
    solid("red").save(tmp_path / name)
    outcome = done("predict", name, "--bundle", "bundle", "--json", cwd=tmp_path)
    assert list(json.loads(outcome.out)) == ["\\xffred\x1b[31m.png"]
    assert "\\udcffred\\x1b[31m.png" in outcome.err
    assert "\x1b" not in outcome.err


def test_a_working_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    program = shlex.quote(str(Path(sys.executable).with_name("gnet-edge")))
    line = f"mkdir gone && cd gone && rmdir ../gone && {program} devices"
    found = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "gnet-edge: the working folder was removed; change to another\n")


@pytest.mark.parametrize("command", ["prune", "export", "calibrate"])
def test_output_below_a_file_is_refused(command: str, work: Path) -> None:
    source = "googlenet.onnx" if command == "calibrate" else "checkpoint.safetensors"
    options = () if command == "prune" else ("--data", "photos")
    more = ("--calibration-images", "8") if command == "calibrate" else ()
    place = {"prune": "below.safetensors", "export": "below.onnx", "calibrate": "below.json"}[command]
    refused_without_a_trace(
        f"cannot write runs/photos/run.json/{place}: .* is not a folder that can be written to; give another --out",
        *(command, f"runs/photos/{source}", *options, *more, "--out", f"runs/photos/run.json/{place}"),
        cwd=work,
    )


# A process that is killed while it writes

STOPPED_IN_A_WRITE = """
import os, signal, sys
from googlenet_edge.cli import main

name, count, *sys.argv[1:] = sys.argv[1:]
seen = 0

def stop(descriptor):
    global seen
    seen += name in os.readlink(f"/proc/self/fd/{descriptor}")
    if seen == int(count):
        sys.stdout.write("written, not renamed\\n")
        sys.stdout.flush()
        signal.pause()

os.fsync = stop
main()
"""


def killed_while_writing(name: str, count: int, *arguments: str, cwd: Path) -> None:
    """Runs a command in another process, and kills it when it writes the file ``name`` for the ``count``-th time."""
    command = [sys.executable, "-c", STOPPED_IN_A_WRITE, name, str(count), *arguments]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "written, not renamed\n", process.stderr.read()
        process.kill()


def test_kill_while_a_bundle_is_written_leaves_the_old_one(built: Built, tmp_path: Path) -> None:
    folder = copy_of(built.folder, tmp_path / "work")
    before = contents(folder)
    killed_while_writing("manifest.json", 1, "build", "--precision", "fp32", cwd=folder)
    after = contents(folder)
    left = [path for path in after if path not in before]
    assert left[0].startswith("runs/photos/.fp32-cpu.tmp-")
    assert {path: state for path, state in after.items() if path in before} == before
    outcome = done("build", "--precision", "fp32", cwd=folder)
    assert "there already: runs/photos/googlenet.onnx" in outcome.err
    assert contents(folder).keys() == before.keys()


def test_kill_while_the_training_state_is_written_loses_one_epoch(tmp_path: Path) -> None:
    write_pictograms(tmp_path / "photos", train_per_class=1, val_per_class=1, size=32)
    options = ("--data", "photos", "--epochs", "3", "--size", "32", "--workers", "0")
    killed_while_writing("training-state.safetensors", 2, "train", *options, cwd=tmp_path)
    run = tmp_path / "runs" / "photos"
    assert next(path.name for path in run.glob(".*")).startswith(".training-state.safetensors.tmp-")
    assert not (run / "checkpoint.safetensors").exists()
    outcome = done("train", *options, cwd=tmp_path)
    assert "going on with epoch 2\n" in outcome.err
    assert re.findall(r"^epoch +(\d)", outcome.err, re.MULTILINE) == ["2", "3"]
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.safetensors", "metrics.jsonl", "run.json"]
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
