"""Measuring on another machine, through a real OpenSSH server that this machine runs for the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PathDistribution
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from command import gnet_edge, refused, refused_without_a_trace
from measured import read_measurement
from ssh_device import ALIAS, Device, needs_sshd, start_device, stop_device, wait_until, with_client
from test_packaging import link_distribution, needed_by
from tiny_bundles import colour_bundle, with_golden_logits, write_colour_bundle

import googlenet_edge
from googlenet_edge.dataset import Progress
from googlenet_edge.engines import remote_link
from googlenet_edge.engines.bundle import write_bundle
from googlenet_edge.engines.measurement import Measurement
from googlenet_edge.engines.remote import MeasuredThere, Remote, bench_there
from googlenet_edge.engines.remote_link import Event, EventKind
from googlenet_edge.engines.remote_worker import RemotePlan
from googlenet_edge.engines.ssh import Host, parse_host
from googlenet_edge.engines.sustained import SustainedPlan
from googlenet_edge.errors import ConfigError, EdgeError, RemoteError
from googlenet_edge.target import Device as Target
from googlenet_edge.target import EngineName, Precision

pytestmark = needs_sshd

BRIEF = RemotePlan(Target.CPU, EngineName.ONNXRUNTIME, threads=1, streams=1, rounds=6)
ENDLESS = replace(BRIEF, rounds=20_000)
HERE = Remote(Host(ALIAS), python=sys.executable)
BENCH = ("bench", "fp32-cpu", "--host", ALIAS, "--streams", "1", "--rounds", "6")
GIVEN = ("--python", sys.executable)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    yield from running(start_device(tmp_path_factory.mktemp("device")))


@pytest.fixture(autouse=True)
def _client(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with_client(device, monkeypatch)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with a bundle."""
    folder = tmp_path / "work"
    write_colour_bundle(folder / "fp32-cpu")
    return folder


def running(device: Device) -> Iterator[Device]:
    try:
        yield device
    finally:
        stop_device(device)


class Bars:
    """Progress bars that remember what they were told."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[int, int] | None] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[Progress]:
        self.last[what] = None

        def report(done: int, total: int) -> None:
            self.last[what] = (done, total)

        yield report


@contextmanager
def measuring(device: Device, paths: Sequence[Path], remote: Remote = HERE) -> Iterator[Future[MeasuredThere]]:
    """An endless measurement, from the moment in which it runs over there; when it ends, nothing is left running."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(bench_there, paths, remote, plan=ENDLESS, bars=Bars())
        wait_until(lambda: device.running("remote_worker") or future.done())
        yield future
        future.exception()
    wait_until(lambda: not device.running())


def why(future: Future[MeasuredThere]) -> str:
    problem = future.exception()
    assert isinstance(problem, RemoteError)
    return str(problem)


def test_remote_bench_brings_a_measurement_home_and_copies_only_what_changed(work: Path, device: Device) -> None:
    latin = work / os.fsdecode(b"caf\xe9")
    write_colour_bundle(latin, Precision.INT8)
    paths, names, bars = [work / "fp32-cpu", latin], [f"{work}/fp32-cpu", rf"{work}/caf\xe9"], Bars()
    first = bench_there(paths, replace(HERE, keep=True), plan=BRIEF, bars=bars)

    assert [bundle.name for bundle in first.measurement.bundles] == names
    assert [bundle.precision for bundle in first.measurement.bundles] == [Precision.FP32, Precision.INT8]
    assert [(ratio.name, ratio.reference) for ratio in first.measurement.ratios] == [(names[1], names[0])]
    done, total = bars.last[f"measuring on {ALIAS}"] or (0, 0)
    assert done == total > 0
    assert bars.last[f"copying to {ALIAS}"] == (first.copied_bytes, first.copied_bytes)
    assert device.keeps() == {"files"}

    again = gnet_edge(*BENCH, *GIVEN, "--out", "measurement.json", cwd=work)
    assert again.code == 0, again.err
    assert f"copied to {ALIAS}: nothing, all was there\n" in again.err
    assert read_measurement(work / "measurement.json").bundles[0].name == "fp32-cpu"
    assert not device.kept.exists()
    assert device.running() == []


@pytest.mark.parametrize("problem", [RemoteError("the connection broke"), KeyboardInterrupt()])
def test_remote_measurement_that_has_come_is_kept_whatever_cleaning_up_does(
    problem: BaseException, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect, bars = remote_link.Link.expect, Bars()

    def until_done(link: remote_link.Link, kind: EventKind) -> Event:
        if kind is EventKind.DONE:
            raise problem
        return expect(link, kind)

    monkeypatch.setattr(remote_link.Link, "expect", until_done)
    found = bench_there([work / "fp32-cpu"], HERE, plan=BRIEF, bars=bars).measurement
    said = str(problem) or "interrupted"
    assert found.warnings[-1] == f"{ALIAS} was left before it had cleaned up: {said}"
    assert f"cleaning up on {ALIAS}" in bars.last


def test_remote_bench_tells_what_went_wrong_there_as_if_it_were_here(work: Path) -> None:
    write_bundle(work / "fp32-cpu", with_golden_logits(colour_bundle(), np.zeros((2, 3))))
    refused_without_a_trace(rf"{ALIAS}: fp32-cpu computes something else on this machine: .+", *BENCH, *GIVEN, cwd=work)


def test_remote_bench_takes_the_host_of_the_settings_for_other_devices(work: Path) -> None:
    (work / "gnet-edge.toml").write_text(f'host = "{ALIAS}:1"\nhost_python = "python3.14"\n')
    outcome = gnet_edge("bench", "fp32-cpu", "--device", "jetson", cwd=work)
    assert "using --host device:1 (gnet-edge.toml says so)\n" in outcome.err
    assert "gnet-edge: device:1 cannot be reached: no SSH server answers there" in outcome.err
    assert outcome.code == 1
    assert gnet_edge("bench", "fp32-cpu", "--rounds", "6", cwd=work).code == 0  # on this machine


def test_remote_options_without_a_host_are_refused(work: Path) -> None:
    outcome = gnet_edge("bench", "fp32-cpu", "--keep", cwd=work)
    assert outcome.code == 2
    assert "--python and --keep are about another machine: give --host" in re.sub(r"[│\s]+", " ", outcome.err)


# What a person has to mend


def test_remote_bench_without_a_server_says_how_to_start_one(work: Path) -> None:
    refused_without_a_trace(
        f"{ALIAS}:1 cannot be reached: no SSH server answers there; start one on it with:"
        " sudo apt install openssh-server",
        *("bench", "fp32-cpu", "--host", f"{ALIAS}:1"),
        cwd=work,
    )


def test_remote_bench_with_another_host_key_goes_no_further(work: Path, device: Device) -> None:
    right, other = ((device.folder / name).read_text().strip() for name in ("host_key.pub", "other_host_key.pub"))
    try:
        device.knows(other)
        changed = gnet_edge(*BENCH, *GIVEN, cwd=work)
        device.knows()
        unknown = gnet_edge(*BENCH, *GIVEN, cwd=work)
    finally:
        device.knows(right)
    refused(
        changed,
        f"{ALIAS} cannot be reached: its key is not the one that is known: if it was set up anew, forget the old one"
        rf" with: ssh-keygen -R {ALIAS}, and accept the new one with: ssh {ALIAS}; otherwise somebody else answers",
    )
    refused(
        unknown,
        f"{ALIAS} cannot be reached: its key is not known yet; look at it and accept it with: ssh {ALIAS}",
    )


def test_remote_bench_with_a_login_that_is_refused_says_how_to_make_one(work: Path) -> None:
    refused_without_a_trace(
        f"nobody@{ALIAS} cannot be reached: the login was refused; make one by key with: ssh-copy-id nobody@{ALIAS}",
        *("bench", "fp32-cpu", "--host", f"nobody@{ALIAS}"),
        cwd=work,
    )


def test_remote_bench_without_ssh_says_what_to_install(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(work))
    sentence = "ssh is not installed; install it with: sudo apt install openssh-client"
    refused_without_a_trace(sentence, *BENCH, cwd=work)


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("", " has no {python}; install Python 3.10 or newer there, or name another with --python"),
        ("exit 126", " cannot execute {python}; name another Python with --python"),
        (
            """echo '{"event": "python", "message": "3.8.10"}'""",
            ": {python} is Python 3.8.10, 3.10 or newer is needed; name another with --python",
        ),
        (
            """printf '{"event": "python", "message": "2.%05000d"}\\n' 0""",
            f": {{python}} is Python 2.{'0' * 498}, 3.10 or newer is needed; name another with --python",
        ),
        ("echo no such thing >&2; exit 3", ": {python} is not usable: no such thing; name another with --python"),
        (
            r"""printf '%s\n' '{"event": "python", "message": "3.12.0"}' '{"event": "ready"}'
            printf 'Oh \033[2J no\n'; cat > /dev/null""",
            " answers with what is not understood: Oh ?[2J no; is its googlenet-edge damaged?",
        ),
    ],
)
def test_remote_python_that_will_not_do_is_named(work: Path, python: str, sentence: str) -> None:
    path = program(work.parent / "py thon's", python) if python else work / "nowhere" / "python3"
    expected = ALIAS + sentence.format(python=path)
    refused_without_a_trace(re.escape(expected), *BENCH, "--python", path, cwd=work)


def test_remote_python_may_be_named_from_the_home_there(work: Path) -> None:
    with TemporaryDirectory(dir=Path.home(), prefix="gnet-edge-") as folder:
        name = program(Path(folder) / "python", f'exec {sys.executable} "$@"').relative_to(Path.home())
        (work / "gnet-edge.toml").write_text(f'host_python = "~/{name}"\n')
        assert gnet_edge(*BENCH, cwd=work).code == 0


def test_remote_shell_that_greets_does_no_harm(work: Path) -> None:
    path = program(work.parent / "greeting", f'echo Welcome; echo \'{{"a": 1}}\'; exec {sys.executable} "$@"')
    write_bundle(work / "fp32-cpu", with_golden_logits(colour_bundle(), np.zeros((2, 3))))
    refused_without_a_trace(
        f"{ALIAS}: fp32-cpu computes something else on this machine: .+", *BENCH, "--python", path, cwd=work
    )


def test_remote_python_without_the_packages_says_which(work: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    refused_without_a_trace(
        f"{ALIAS}: the process that measures failed: ModuleNotFoundError: No module named '.+'; install it there, or"
        " leave out --python",
        *BENCH,
        *("--python", tmp_path / "bare" / "bin" / "python"),
        cwd=work,
    )


def test_remote_environment_is_made_once_and_kept(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the wheel needs is found beside it, as on a device where the system has it: pip reaches no network here."""
    for name in ("python", "needs", "device"):
        (tmp_path / name).mkdir()
    (tmp_path / "python" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    for name in needed_by(PathDistribution.from_name("googlenet-edge")):
        link_distribution(name, tmp_path / "needs")
    environment = {
        "PATH": f"{tmp_path / 'python'}:/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path / "needs"),
        "PIP_NO_INDEX": "1",
    }
    for fresh in running(start_device(tmp_path / "device", environment=environment)):
        with_client(fresh, monkeypatch)
        bars, keeping = Bars(), Remote(Host(ALIAS), keep=True)
        found = bench_there([work / "fp32-cpu"], keeping, plan=BRIEF, bars=bars)
        assert found.measurement.circumstances.packages["googlenet-edge"] == googlenet_edge.__version__
        assert {f"making an environment on {ALIAS}", f"installing on {ALIAS}"} < bars.last.keys()
        assert fresh.keeps() == {"files", "venv"}

        other, bars = replace(BRIEF, engine=EngineName.OPENVINO), Bars()
        with pytest.raises(RemoteError, match=f"^{ALIAS}: pip could not install what is needed: .*openvino"):
            bench_there([work / "fp32-cpu"], replace(keeping, keep=False), plan=other, bars=bars)
        assert f"making an environment on {ALIAS}" not in bars.last
        assert not fresh.kept.exists()


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_remote_disk_that_is_full_is_reported_and_emptied(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    for small in running(start_device(tmp_path / "small", largest_file=50_000)):
        with_client(small, monkeypatch)
        with pytest.raises(RemoteError) as problem:
            bench_there([work / "fp32-cpu"], HERE, plan=BRIEF, bars=Bars())
        assert str(problem.value) == (
            f"{ALIAS}: the disk is full there; free space, or set XDG_CACHE_HOME there to a folder on another disk"
        )
        assert not small.kept.exists()


# What ends in the middle


def test_remote_worker_that_is_killed_is_reported(work: Path, device: Device) -> None:
    with measuring(device, [work / "fp32-cpu"]) as future:
        os.kill(device.running("remote_worker")[0], signal.SIGKILL)
        assert why(future) == f"{ALIAS}: the process that measures was killed (SIGKILL); is the memory full?"
        assert not device.kept.exists()


def test_remote_agent_that_is_killed_takes_its_worker_along(work: Path, device: Device) -> None:
    with measuring(device, [work / "fp32-cpu"]) as future:
        os.kill(device.running("import sys; print(")[0], signal.SIGKILL)
        assert why(future) == (
            f"the connection to {ALIAS} broke: the process over there was killed (is its memory full?); what ran there"
            " ends by itself; try again"
        )


def test_remote_connection_that_breaks_leaves_nothing_running(work: Path, device: Device) -> None:
    with measuring(device, [work / "fp32-cpu"]) as future:
        for session in device.sessions():
            os.kill(session, signal.SIGKILL)
        assert re.fullmatch(
            f"the connection to {ALIAS} broke: .+ closed by remote host.*; what ran there ends by itself; try again",
            why(future),
        )
    assert not device.kept.exists()


def test_remote_device_that_hangs_is_given_up(work: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_CLOSING_S", 0.0), ("SILENCE_S", 4.0), ("ALIVE_S", 0.1)):
        monkeypatch.setattr(remote_link, name, seconds)
    with measuring(device, [work / "fp32-cpu"]) as future:
        [agent] = device.running("import sys; print(")
        os.kill(agent, signal.SIGSTOP)
        assert why(future) == f"{ALIAS} has said nothing for 4 seconds; see whether it hangs, and try again"
        os.kill(agent, signal.SIGCONT)
    assert not device.kept.exists()


def test_remote_device_that_takes_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_link, "_STARTING_S", 1.0)
    with subprocess.Popen(["sleep", "60"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as deaf:
        link = remote_link.Link(parse_host("me@jetson"), "python3", deaf)
        with pytest.raises(RemoteError, match="me@jetson has said nothing for 1 seconds; see whether it hangs, and"):
            link.send("piece", payload=bytes(1 << 20))
        deaf.kill()


def test_remote_device_that_sends_a_line_without_an_end_is_given_up() -> None:
    with subprocess.Popen(["head", "-c", "200000", "/dev/zero"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as endless:
        link = remote_link.Link(parse_host("me@jetson"), "python3", endless)
        with pytest.raises(RemoteError, match="me@jetson answers with what is not understood: a line without an end"):
            link.event()
        endless.kill()


def test_remote_device_is_measured_by_one_at_a_time(work: Path, device: Device) -> None:
    with measuring(device, [work / "fp32-cpu"]) as future:
        sentence = f"{ALIAS}: somebody else measures there just now; wait until that is done"
        refused_without_a_trace(sentence, *BENCH, *GIVEN, cwd=work)
        assert not future.done()
        os.kill(device.running("remote_worker")[0], signal.SIGTERM)
        assert "was killed (SIGTERM)" in why(future)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_remote_bench_that_is_ended_here_ends_there(work: Path, device: Device, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "googlenet_edge.cli", *BENCH, *GIVEN, "--rounds", "5000"]
    with subprocess.Popen(command, cwd=work, stderr=subprocess.PIPE, text=True) as here:
        wait_until(lambda: device.running("remote_worker") or here.poll() is not None)
        assert here.poll() is None, "it measures"
        here.send_signal(number)
        assert here.stderr is not None
        assert "Traceback" not in here.stderr.read()
    assert here.returncode != 0
    wait_until(lambda: not device.running())
    assert not device.kept.exists()


UNDER_LOAD = """
import re, signal, sys
from contextlib import contextmanager
from pathlib import Path
from googlenet_edge.engines.sustained import SustainedPlan
from test_remote import BRIEF, HERE, bench_there, replace

@contextmanager
def bars(what):
    def report(done, total):  # ends the load after its first second
        if what.startswith("measuring") and done > total - 600 and not ended:
            ended.append(done)
            signal.raise_signal(signal.SIGHUP)
    yield report

ended, plan = [], replace(BRIEF, sustained=SustainedPlan(600))
found = bench_there([Path(sys.argv[1])], HERE, plan=plan, bars=bars).measurement
assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
print(found.cut_short, *found.warnings, sep="\\n")
"""


def test_remote_load_that_is_ended_here_brings_home_what_was_measured(work: Path, device: Device) -> None:
    """In a process of its own, which the signal would end."""
    command = [sys.executable, "-c", UNDER_LOAD, str(work / "fp32-cpu")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    cut_short, ended, *doubts = done.stdout.splitlines()
    assert cut_short == "True"
    assert re.fullmatch(rf"the load of {work}/fp32-cpu ended after \d s: interrupted", ended)
    assert not any("cleaned up" in doubt for doubt in doubts)
    assert device.running() == []
    assert not device.kept.exists()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("remote_worker", f"{ALIAS}: the process that measures was killed (SIGKILL); is the memory full?"),
        ("-I", f"the connection to {ALIAS} broke: the process over there was killed (is its memory full?);"),
    ],
)
def test_remote_load_that_is_killed_there_leaves_what_came_before(
    work: Path, device: Device, what: str, sentence: str
) -> None:
    came: list[Measurement] = []

    def so_far(measurement: Measurement) -> None:
        came.append(measurement)
        os.kill(device.running(what)[0], signal.SIGKILL)

    plan, bundle = replace(BRIEF, sustained=SustainedPlan(600)), work / "fp32-cpu"
    found = bench_there([bundle], HERE, plan=plan, bars=Bars(), so_far=so_far).measurement
    assert found.cut_short
    assert replace(found, warnings=found.warnings[:-1]) == came[0]
    ended = f"the load of {bundle} ended after 0 s: what came later is lost"
    assert re.fullmatch(ended, found.warnings[0])
    assert found.warnings[-1].startswith(f"the measurement came home incomplete: {sentence}")
    wait_until(lambda: not device.running())


def test_remote_load_of_a_device_that_hangs_leaves_what_came_before(
    work: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("_CLOSING_S", 0.0), ("SILENCE_S", 4.0), ("ALIVE_S", 0.1)):
        monkeypatch.setattr(remote_link, name, seconds)
    stopped: list[int] = []

    def so_far(_: Measurement) -> None:
        stopped.extend(device.running("import sys; print("))
        os.kill(stopped[0], signal.SIGSTOP)

    plan = replace(BRIEF, sustained=SustainedPlan(600))
    found = bench_there([work / "fp32-cpu"], HERE, plan=plan, bars=Bars(), so_far=so_far).measurement
    os.kill(stopped[0], signal.SIGCONT)
    hangs = f"{ALIAS} has said nothing for 4 seconds; see whether it hangs, and try again"
    assert (found.cut_short, found.warnings[-1]) == (True, f"the measurement came home incomplete: {hangs}")
    wait_until(lambda: not device.running())


# Words


@pytest.mark.parametrize("python", ["", "-c", "python3\nreboot"])
def test_remote_python_must_be_a_path(python: str) -> None:
    with pytest.raises(ConfigError, match=r"is no Python; give --python the path of one on the device"):
        Remote(parse_host("me@there"), python)


def test_remote_bench_needs_bundles_each_once(work: Path) -> None:
    for paths in ([], [work / "fp32-cpu"] * 2):
        with pytest.raises(EdgeError, match="give one or more bundles to measure, each once"):
            bench_there(paths, HERE, plan=BRIEF, bars=Bars())
