"""compare_peers: what its table and its figures say, and that a peer's failure costs one row. No peer is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import FOLDER, Answer

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.measurement import samples
from googlenet_edge.engines.timing import WarmUp
from googlenet_edge.errors import EngineError, OutputError
from googlenet_edge.statistics import Interval
from googlenet_edge.target import EngineChoice

sys.path.insert(0, str(FOLDER))  # as the scripts find each other

import compare_peers
import peer_quantizers
import peer_table
import quantizing
from peer_engines import Contender, Runner, Timing
from peer_ours import Task, prepare, read_source
from peer_quantizers import Cost, Looks, Made, Peer
from peer_table import Judged, Origin, Row

ACCURACY = Accuracy(images=500, top1=0.9, top1_interval=Interval(0.87, 0.92), top5=0.99)


def compared(*, change: float = 0.0, p: float = 1.0, agreement: float = 0.998) -> Comparison:
    return Comparison(ACCURACY, agreement, change, Interval(change - 0.3, change + 0.3), p)


def timing(ms: float) -> Timing:
    return Timing(WarmUp(10, steady=True), samples([(ms, ms, ms)] * 6))


def row(model: str, origin: Origin, ms: float | None = None, **given: object) -> Row:
    """A row with accuracy, and with the same time for one thread and half of it for two."""
    values = {"p": 1.0, "sqnr_db": 30.0, "looks": Looks.MORE, "cost": None, **given}
    judged = Judged(0.9, compared(p=values["p"]), values["sqnr_db"], 6_000_000)  # type: ignore[arg-type]
    timings = {1: timing(ms), 2: timing(ms / 2)} if ms else {}
    return Row(model, origin, judged, timings, values["cost"], values["looks"])  # type: ignore[arg-type]


FP32 = row("FP32", Origin.REFERENCE, 8.0)


def figures(*rows: Row) -> dict[str, compare_peers.Figure]:
    return {figure.what: figure for figure in peer_table.figures_of([FP32, *rows], (1, 2))}


def cells(text: str, model: str) -> dict[str, str]:
    """A row of a Markdown table by its columns."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    (found,) = [line for line in lines if line[0] == model]
    assert len(found) == len(lines[0])
    return dict(zip(lines[0], found, strict=True))


def test_table_gives_each_model_its_times_and_the_best_of_ours_over_it() -> None:
    ours = [row("ours, a", Origin.OURS, 2.0), row("ours, b", Origin.OURS, 3.0)]
    text = peer_table.table_of([FP32, *ours, row("peer", Origin.PEER, 4.0, cost=Cost(12.34, 456.0, {}))], (1, 2))
    peer = cells(text, "peer")
    assert peer["p50, 1 thread"] == "4.000 ms"
    assert peer["p50, 2 threads"] == "2.000 ms"
    assert peer["best of ours / it, 1 thread (95 % interval)"] == "0.500 (0.500…0.500)"
    assert (peer["quantizing"], peer["peak memory"], peer["size"]) == ("12.3 s", "456 MB", "6.00 MB")
    assert cells(text, "ours, a")["best of ours / it, 1 thread (95 % interval)"] == "–", "it is the best of ours itself"
    assert cells(text, "ours, b")["best of ours / it, 1 thread (95 % interval)"] == "0.667 (0.667…0.667)"
    assert cells(text, "FP32")["agreement"] == "–"


def test_table_of_a_failed_peer_says_why_and_keeps_its_columns() -> None:
    failed = Row("peer", Origin.PEER, note="failed: a | b")
    found = cells(peer_table.table_of([FP32, row("ours", Origin.OURS, 2.0), failed], (1, 2)), "peer")
    assert found.pop("model") == "peer"
    assert found.pop("note") == "failed: a / b"
    assert set(found.values()) == {"–"}


def test_figures_compare_with_the_fastest_peer_that_keeps_its_accuracy() -> None:
    wrong = row("fast and wrong", Origin.PEER, 1.0, p=0.001)
    found = figures(row("ours", Origin.OURS, 2.0), wrong, row("ONNX Runtime, x", Origin.PEER, 4.0))
    figure = found["best of ours / the fastest peer that keeps the accuracy, 1 thread"]
    assert figure.value == pytest.approx(0.5)
    assert figure.detail.startswith("ours / ONNX Runtime, x, ")
    assert (figure.most, figure.reached) == (0.97, "yes")
    assert found["best of ours / the fastest of ONNX Runtime's own, 2 threads"].most == 0.85


def test_figures_of_accuracy_are_those_of_our_fastest() -> None:
    ours = [row("slow", Origin.OURS, 3.0, sqnr_db=40.0), row("quick", Origin.OURS, 2.0, sqnr_db=31.0)]
    found = figures(*ours, row("peer", Origin.PEER, 4.0, sqnr_db=29.5), row("other", Origin.PEER, 4.0, sqnr_db=20.0))
    gain = found["logit SQNR above the best peer's"]
    assert (gain.value, gain.reached, gain.detail) == (pytest.approx(1.5), "no", "31.0 dB against 29.5 dB of peer")
    assert found["agreement with FP32, quick"].value == pytest.approx(99.8)


def test_figures_compare_the_cost_with_quantizers_that_look_at_more_than_extremes() -> None:
    ours = row("ours", Origin.OURS, 2.0, cost=Cost(9.0, 100.0, {}))
    extremes = row("ONNX Runtime, x", Origin.PEER, 4.0, cost=Cost(1.0, 200.0, {}), looks=Looks.EXTREMES)
    entropy = row("ONNX Runtime, entropy", Origin.PEER, 4.0, cost=Cost(20.0, 2000.0, {}))
    found = figures(ours, extremes, entropy)
    assert (found["quantizing"].most, found["quantizing"].reached) == (20.0, "yes")
    assert found["peak memory / that of ONNX Runtime, entropy"].value == pytest.approx(0.05)
    full = row("ONNX Runtime, entropy", Origin.PEER, 4.0, cost=Cost(20.0, 2000.0, {}, full_at_mb=20_000.0))
    assert figures(ours, full)["peak memory / that of ONNX Runtime, entropy"].value == pytest.approx(0.005)
    [line] = [line for line in peer_table.table_of([full], [1]).splitlines() if "entropy" in line]
    assert "2000 MB (out of memory at 20000)" in line


def test_figures_without_any_peer_or_any_of_ours_are_fewer_and_no_error() -> None:
    assert set(figures()) == set()
    alone = figures(row("ours", Origin.OURS, 2.0))
    assert set(alone) == {"McNemar's p against FP32, ours", "agreement with FP32, ours"}


def fail() -> Made:
    raise MemoryError("cannot take 18 GB\nand more words")


def test_made_of_a_crash_is_a_row_with_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    entry = compare_peers.made("peer", Origin.PEER, Looks.MORE, fail)
    assert entry.contender is None
    assert entry.row.note == "failed: cannot take 18 GB"
    assert "peer: cannot take 18 GB" in capsys.readouterr().err


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for made-up peers; their environment is there already, and is this one."""
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "requirements.txt").write_text("numpy\n")
    environment = tmp_path / "env" / "requirements"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    (environment / "installed.txt").write_text("numpy\n")
    monkeypatch.setattr(peer_quantizers, "SCRIPTS", folder)
    return folder


PEER = Peer("a peer", "a.py", Runner.ONNXRUNTIME, Looks.EXTREMES)
RESULT = '{"seconds": 1.5, "peak_memory_mb": 100.5, "versions": {"numpy": "2"}}'
MODEL = "sys.argv[2] + '/model.onnx'"
WORKS = f"import sys, pathlib\npathlib.Path(sys.argv[2], 'result.json').write_text('{RESULT}')\n"


def quantized(peer: Peer, folder: Path, script: str) -> Made:
    (folder / peer.script).write_text(script)
    work = folder.parent
    return peer_quantizers.quantize_with(
        peer, given=work, out=work / "out" / "a", environments=work / "env", saturates=False
    )


def test_quantize_with_reads_what_the_script_measured(scripts: Path) -> None:
    found = quantized(PEER, scripts, WORKS)
    assert found.cost == Cost(1.5, 100.5, {"numpy": "2"})
    assert found.contender.path == scripts.parent / "out" / "a" / "model.onnx"
    assert found.note == ""


def test_quantize_with_a_script_that_fails_names_the_error(scripts: Path) -> None:
    with pytest.raises(EngineError, match=r"^a peer failed: ValueError: no such operator$"):
        quantized(PEER, scripts, "print('words')\nraise ValueError('no such operator')")


def test_quantize_with_a_script_that_is_killed_names_the_signal(scripts: Path) -> None:
    with pytest.raises(EngineError, match=r"^a peer failed: signal 9$"):
        quantized(PEER, scripts, "import os\nos.kill(os.getpid(), 9)")


def test_quantize_with_tries_once_more_where_the_peer_has_another_way(scripts: Path) -> None:
    peer = Peer("a peer", "a.py", Runner.ONNXRUNTIME, Looks.MORE, second_try=("--at-once", "32"))
    (scripts / "handover.py").write_bytes((FOLDER / "peers" / "handover.py").read_bytes())
    np.save(scripts.parent / "calibration.npy", np.zeros((64, 3, 4, 4), np.float32))
    body = "def quantize(given):\n    if not given.at_once: raise MemoryError()\n"
    found = quantized(peer, scripts, f"from handover import answer\n{body}answer(quantize, [])")
    assert found.note == "only with --at-once 32; without: a peer failed: MemoryError"
    assert found.cost.full_at_mb is not None
    assert found.cost.full_at_mb > 10


def test_quantize_with_a_half_written_result_says_whose(scripts: Path) -> None:
    with pytest.raises(EngineError, match=r"^a peer's result cannot be read: "):
        quantized(PEER, scripts, WORKS.replace("1.5", "true"))


def test_handover_measures_a_script_and_lets_it_read_the_images(scripts: Path) -> None:
    np.save(scripts.parent / "calibration.npy", np.zeros((3, 3, 4, 4), np.float32))
    (scripts / "handover.py").write_bytes((FOLDER / "peers" / "handover.py").read_bytes())
    body = "def quantize(given):\n    assert [b.shape for b in given.batches()] == [(1, 3, 4, 4)] * 3\n"
    found = quantized(PEER, scripts, f"from handover import answer\n{body}answer(quantize, ['numpy'])")
    assert found.cost.seconds > 0
    assert found.cost.peak_memory_mb is not None
    assert found.cost.versions == {"numpy": np.__version__}


def test_work_folder_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "letters").touch()
    with (
        pytest.raises(OutputError, match=r"holds something else \(letters\); give --env a new folder, or its own$"),
        peer_quantizers.work_folder(tmp_path),
    ):
        pass
    with (
        pytest.raises(OutputError, match=r"letters cannot hold the peers' environments: .*; give another --env$"),
        peer_quantizers.work_folder(tmp_path / "letters"),
    ):
        pass


def test_work_folder_leaves_the_environments_and_no_work(tmp_path: Path) -> None:
    (tmp_path / "requirements-modelopt.log").touch()
    (tmp_path / "work-999999999-killed").mkdir()
    with peer_quantizers.work_folder(tmp_path) as work:
        (work / "model.onnx").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["requirements-modelopt.log"]


def test_compare_peers_of_a_folder_without_a_checkpoint_is_one_line(answer: Answer, tmp_path: Path) -> None:
    code, out, err = answer("compare_peers.py", "--run", tmp_path, "--data", tmp_path, "--env", tmp_path / "env")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "checkpoint.safetensors is missing" in err
    assert not (tmp_path / "env").exists()


def test_compare_peers_of_other_classes_is_one_line(answer: Answer, tiny_run: Path, tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.jpg").touch()
    given = ("--run", tiny_run / "runs" / "photos", "--data", tmp_path / "data", "--env", tmp_path / "env")
    code, _, err = answer("compare_peers.py", *given)
    assert code == 1
    assert "data has other classes than " in err


def test_compare_all_goes_on_after_a_peer_that_fails(
    scripts: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One peer gives the FP32 graph back, and so its logits; another one writes a model that no runtime can read."""
    (scripts / "same.py").write_text(f"{WORKS}import shutil\nshutil.copy(sys.argv[1] + '/googlenet.onnx', {MODEL})")
    (scripts / "damaged.py").write_text(f"{WORKS}open({MODEL}, 'w').write('no model')")
    (scripts / "fails.py").write_text("raise RuntimeError('broken')")
    peers = [Peer(name, f"{name}.py", Runner.ONNXRUNTIME, Looks.EXTREMES) for name in ("fails", "damaged", "same")]
    monkeypatch.setattr(compare_peers, "PEERS", peers)
    monkeypatch.setattr(compare_peers, "OURS", {"ours": EngineChoice.ONNXRUNTIME})
    task = Task(scripts.parent / "work", tiny_run / "photos", 0, calibration_images=24, max_drop_points=100.0)
    val = prepare(task, read_source(tiny_run / "runs" / "photos", tiny_run / "photos"), limit=12)
    plan = compare_peers.Plan(task, val, scripts.parent / "env", rounds=6, saturates=False)
    rows = {row.model: row for row in compare_peers.compare_all(plan)}
    assert list(rows) == ["FP32, ONNX Runtime", "ours", "fails", "damaged", "same", "ncnn"]
    assert rows["fails"].note == "failed: fails failed: RuntimeError: broken"
    assert rows["damaged"].note.startswith("failed when run: ")
    assert set(rows["ours"].timings) == set(rows["same"].timings) == {1, 2}
    assert rows["same"].judged.against_fp32.agreement == 1  # type: ignore[union-attr]
    assert 10 < rows["ours"].judged.sqnr_db < 80  # type: ignore[union-attr]
    assert rows["ours"].judged.model_bytes < rows["same"].judged.model_bytes / 2  # type: ignore[union-attr]


def test_differ_ignores_other_roundings() -> None:
    one, near, far = (row("a", Origin.PEER, sqnr_db=db) for db in (30.0, 30.2, 33.0))
    assert not compare_peers.differ(one, near)
    assert compare_peers.differ(one, far)


def test_quantizing_takes_turns_and_compares_each_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ours": iter([99.0, 2.0, 3.0]), "theirs": iter([99.0, 4.0, 4.0])}
    turns: list[str] = []

    def cost(whose: str) -> Cost:
        turns.append(whose)
        return Cost(next(seconds[whose]), 100.0 * len(turns), {})

    theirs = Contender("peer", tmp_path, Runner.OPENVINO)
    monkeypatch.setattr(quantizing, "in_fresh_process", lambda *_: cost("ours"))
    monkeypatch.setattr(quantizing, "quantize_with", lambda *_, **__: Made(theirs, cost("theirs")))
    task = Task(tmp_path, tmp_path, seed=0, calibration_images=40, max_drop_points=1.0)
    found = quantizing.in_turns(task, quantizing.CHOICES["openvino_nncf"], tmp_path, 2)
    assert turns == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert [[each.seconds for each in costs] for costs in found] == [[2.0, 3.0], [4.0, 4.0]]
    made = {figure.what: figure for figure in quantizing.figures_of("peer", *(costs * 3 for costs in found))}
    ratio = made["ours / peer"]
    assert (made["ours"].value, made["peer"].value, ratio.value, ratio.reached) == (2.5, 4.0, 0.625, "yes")
    assert made["ours: most memory"].value == 600
