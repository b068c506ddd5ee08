"""Training: the loss, the schedule, and that it comes to the same whatever happens on the way."""

from __future__ import annotations

import copy
import json
import math
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import refused_without_a_trace
from networks import SMALL, imagenet_normalization
from PIL import Image
from safetensors.torch import save
from tiny_bundles import write_colour_bundle
from watching import Watching

from googlenet_edge import augment, descent, training_loop
from googlenet_edge.augment import (
    Augmentation,
    Epoch,
    TrainingBatches,
    erase_rectangle,
    random_colours,
    random_crop,
    to_input,
)
from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo, read_checkpoint, write_checkpoint
from googlenet_edge.console import TrainingDisplay
from googlenet_edge.dataset import Checked, check_images, load_pixels, open_dataset, open_images, refuse_damaged
from googlenet_edge.descent import batch_size_for, learning_rate_at
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.errors import CheckpointError, DamagedImageError, OutputError, TrainingError
from googlenet_edge.files import to_json
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig, Outputs
from googlenet_edge.parallel import Rank
from googlenet_edge.pictograms import write_pictograms
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.reports import EpochReport, StepReport, StoppedError, drop_lines_from, read_lines
from googlenet_edge.train import TrainRequest, check_training_data, dirac_initialized, train, whitened
from googlenet_edge.training_loop import (
    MAYBE_SEEN,
    TrainingData,
    ema_decay_at,
    evaluate_model,
    train_from,
    training_loss,
)
from googlenet_edge.training_state import (
    METADATA_KEY,
    TrainConfig,
    TrainingState,
    check_same_training,
    first_state,
    read_state,
    write_state,
)
from googlenet_edge.workspace import RunRecord, write_run_record

PREPROCESS = Preprocess(resize=32, crop=32)
CONFIG = TrainConfig(epochs=2, batch_size=16, augmentation=Augmentation(flip=False))
COMMAND = [str(Path(sys.executable).with_name("gnet-edge"))]
TRAIN = (
    *("train", "--data", "photos", "--weights", "small.safetensors", "--size", "32", "--batch-size", "16", "--no-flip"),
    *("--out", "run"),
)
OUR_LINE = (
    '{"epoch":1,"loss":2.0,"train_top1":0.5,"val_top1":0.5,"val_top5":1.0,"learning_rate":0.1,"images_per_s":9.0,'
    '"seconds":1.0}\n'
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps this small are slower in two threads, and far slower on a busy machine."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "photos"
    write_pictograms(folder, train_per_class=4, val_per_class=1, size=32)
    return folder


@pytest.fixture
def data(photos: Path) -> TrainingData:
    dataset = open_dataset(photos)
    train, val = (check_images(part, preprocess=PREPROCESS) for part in (dataset.train, dataset.val))
    return TrainingData(train.images, val.images, train.sha256, val.sha256, PREPROCESS)


@pytest.fixture
def work(photos: Path, data: TrainingData, tmp_path: Path) -> Path:
    """A folder of one's own, with images and the weights of a network with few channels, in which `TRAIN` runs."""
    shutil.copytree(photos, tmp_path / "photos")
    small = start(data)
    write_checkpoint(tmp_path / "small.safetensors", Checkpoint(small.info, small.weights))
    return tmp_path


def start(data: TrainingData, config: TrainConfig = CONFIG) -> TrainingState:
    """Of a network with few channels: what a training keeps and draws does not depend on how many."""
    info = CheckpointInfo(data.train.class_names, PREPROCESS, widths=SMALL)
    return first_state(info, config, images_sha256=data.train_sha256, batch_size=config.batch_size)


def run(state: TrainingState, data: TrainingData, folder: Path, watching: Watching) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    return train_from(state, data, folder=folder, rank=Rank(), observer=watching, workers=0)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_loss_is_main_plus_three_tenths_of_each_auxiliary_head() -> None:
    labels = torch.tensor([0, 2])
    outputs = Outputs(*torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)))
    main, first, second = (F.cross_entropy(o, labels, label_smoothing=0.1) for o in outputs)
    loss = training_loss(outputs, labels)
    assert loss.item() == pytest.approx((main + 0.3 * first + 0.3 * second).item())


def test_learning_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    config = TrainConfig(learning_rate=0.4)
    rates = [learning_rate_at(step, steps=200, config=config) for step in range(200)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert rates[105] == pytest.approx(0.2)
    assert rates[199] < 0.001
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_descent_is_nesterov_s_and_only_kernels_and_matrices_decay() -> None:
    """Two steps of a fixed gradient from weights of 1, by the formulas of Sutskever et al. 2013."""
    config = TrainConfig(learning_rate=0.1, weight_decay=0.5, mixed_precision=False)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1), torch.nn.Linear(1, 1))
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    down = descent.Descent(model, config, steps=20, device=torch.device("cpu"), mend="")  # one step of warm-up
    for step in range(2):
        down.step(step, sum(0.25 * parameter.sum() for parameter in model.parameters()))  # type: ignore[arg-type]

    def after(decay: float) -> float:
        weight, momentum = 1.0, 0.0
        for step in range(2):
            gradient = 0.25 + decay * weight
            momentum = 0.9 * momentum + gradient
            weight -= learning_rate_at(step, steps=20, config=config) * (gradient + 0.9 * momentum)
        return weight

    for parameter in model.parameters():
        assert parameter.item() == pytest.approx(after(0.5 if parameter.ndim > 1 else 0.0), rel=1e-5)


def test_descent_imports_no_compiler() -> None:
    """PyTorch's takes longer than all else that a training begins with, and `torch.optim.Optimizer` asks for it."""
    program = (
        "import sys, torch\n"
        "from googlenet_edge.descent import Descent, DescentConfig\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))\n"
        "before = model[0].weight.clone()\n"
        "descent = Descent(model, DescentConfig(), steps=2, device=torch.device('cpu'), mend='', at_random=True)\n"
        "descent.step(0, model(torch.randn(2, 1, 3, 3)).square().sum())\n"
        "assert not torch.equal(model[0].weight, before)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (8, 2)])
def test_training_in_a_container_takes_no_more_threads_than_it_has_cores_for(cores: int, threads: int) -> None:
    program = (
        "import torch\n"
        "from googlenet_edge import training_loop\n"
        f"training_loop.usable_cores = lambda: {cores}\n"
        "training_loop.prepare_process()\n"
        "print(torch.get_num_threads())\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{threads}\n"), done.stderr


def test_average_forgets_its_beginning_and_settles() -> None:
    decays = [ema_decay_at(step, steps=1000) for step in range(1000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays[-1] == pytest.approx(0.5 ** (1 / 20))


def test_training_stopped_at_any_step_ends_as_if_it_never_was(data: TrainingData, tmp_path: Path) -> None:
    """Weights, metrics and draws of dropout, bit for bit; the second epoch has plain images."""
    config = replace(CONFIG, plain_epochs=1)
    whole = run(start(data, config), data, tmp_path / "whole", Watching())
    metrics = [(line["loss"], line["train_top1"]) for line in read_lines(tmp_path / "whole" / "metrics.jsonl")]
    for stop_after in (1, 3, 4):  # within the first epoch, at its end, within the second
        folder = tmp_path / f"stopped-{stop_after}"
        with pytest.raises(StoppedError, match="was saved; the same command goes on from there"):
            run(start(data, config), data, folder, Watching(stop_after))
        saved = read_state(folder)
        assert saved is not None
        resumed = run(saved, data, folder, Watching())
        assert same(resumed.weights, whole.weights)
        lines = read_lines(folder / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == [1, 2]
        for line, figures in zip(lines, metrics, strict=True):
            assert (line["loss"], line["train_top1"]) == pytest.approx(figures)


def test_training_keeps_in_its_checkpoint_how_images_were_changed(data: TrainingData, tmp_path: Path) -> None:
    record = run(start(data), data, tmp_path, Watching()).info.training
    assert record and record.augmentation == Augmentation(flip=False)
    assert not torch.backends.cudnn.allow_tf32, "the accuracy beside it is in float32, on every GPU"


def test_only_the_last_epochs_are_plain(data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, of = list[bool](), TrainingBatches.of
    monkeypatch.setattr(TrainingBatches, "of", lambda self, epoch: seen.append(epoch.plain) or of(self, epoch))
    run(start(data, replace(CONFIG, plain_epochs=1)), data, tmp_path / "run", Watching())
    assert seen == [False, True]


def test_state_that_another_version_wrote_is_not_gone_on_with(data: TrainingData, tmp_path: Path) -> None:
    header = json.loads(to_json(replace(start(data), weights={}, average={})))
    older = {name: value for name, value in header.items() if name != "schema"}
    for said, facts in [
        (r"cannot be read: .*required field `schema`.*", older),
        (r"has schema 2, this version reads up to 1; upgrade googlenet-edge", header | {"schema": 2}),
    ]:
        metadata = {METADATA_KEY: json.dumps(facts)}
        (tmp_path / "training-state.safetensors").write_bytes(save({"generator": torch.zeros(1)}, metadata=metadata))
        with pytest.raises(TrainingError, match=rf"^the metadata of .* {said}; start anew with another --out$"):
            read_state(tmp_path)


def test_training_with_loss_scaling_goes_on_with_its_scale(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU without bfloat16; the scale doubles after every second step here."""
    made = []

    def scaler(device: torch.device, *, wanted: bool) -> torch.amp.GradScaler:
        del wanted
        made.append(torch.amp.GradScaler(device.type, init_scale=4.0, growth_interval=2))
        return made[-1]

    monkeypatch.setattr(descent, "gradient_scaler", scaler)
    whole = run(start(data), data, tmp_path / "whole", Watching())
    with pytest.raises(StoppedError):
        run(start(data), data, tmp_path / "run", Watching(3))
    saved = read_state(tmp_path / "run")
    assert saved is not None
    assert same(run(saved, data, tmp_path / "run", Watching()).weights, whole.weights)
    assert [each.get_scale() for each in made] == [32.0, 8.0, 32.0]


def test_first_step_that_loss_scaling_skips_leaves_no_momentum(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """PyTorch fills memory that nobody has written with NaN here."""
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(
        descent, "gradient_scaler", lambda device, *, wanted: torch.amp.GradScaler(device.type, init_scale=2.0**127)
    )
    model = torch.nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    down = descent.Descent(model, CONFIG, steps=9, device=torch.device("cpu"), mend="")
    down.step(0, 9 * model(torch.ones(1, 3)).sum())
    assert same(model.state_dict(), before), "skipped"
    assert [buffer.abs().max().item() for buffer in down.momentum().values()] == [0, 0]


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_gpus_that_only_emulate_bfloat16_get_float16(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    descent._reduced_dtype.cache_clear()
    try:
        assert descent._reduced_dtype("cuda") is dtype
    finally:
        descent._reduced_dtype.cache_clear()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_mixed_precision_is_that_of_the_device_where_it_is_wanted(
    dtype: torch.dtype | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only float16 needs its loss scaled."""
    monkeypatch.setattr(descent, "_reduced_dtype", lambda _: dtype)
    device, ones = torch.device("cpu"), torch.ones(2, 2)
    with descent.autocast(device, wanted=wanted):
        assert (ones @ ones).dtype is (dtype if wanted and dtype else torch.float32)
    config = replace(CONFIG, mixed_precision=wanted)
    down = descent.Descent(torch.nn.Linear(3, 2), config, steps=9, device=device, mend="")
    assert bool(down.scaling()) == (wanted and dtype is torch.float16)


def test_faint_gradients_move_kernels_in_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of float16 would be zeros in it; what is not wanted in bfloat16 is exact."""

    def moved(dtype: torch.dtype | None, *, wanted: bool = True) -> torch.Tensor:
        monkeypatch.setattr(descent, "_reduced_dtype", lambda _: dtype)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4))
        config = replace(CONFIG, mixed_precision=wanted)
        down = descent.Descent(model, config, steps=9, device=torch.device("cpu"), mend="", at_random=True)
        down.step(0, 1e-9 * model(torch.linspace(-1, 1, 96).view(2, 3, 4, 4)).exp().sum())
        return model[0].weight.detach()

    exact = moved(None)
    assert torch.equal(moved(torch.bfloat16, wanted=False), exact)
    assert not torch.equal(moved(torch.bfloat16), exact)
    torch.testing.assert_close(moved(torch.float16), exact)


def test_training_of_one_step_an_epoch_can_be_stopped(data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match="training stopped after epoch 1 of 2 and was saved"):
        run(start(data, replace(CONFIG, batch_size=48)), data, tmp_path / "run", Watching(1))
    saved = read_state(tmp_path / "run")
    assert saved is not None
    assert (saved.epoch, saved.step) == (1, 0)


def test_training_reports_what_a_progress_bar_shows(data: TrainingData, tmp_path: Path) -> None:
    watching = Watching()
    checkpoint = run(start(data), data, tmp_path / "run", watching)
    last = watching.steps[-1]
    assert (last.epoch, last.epochs, last.step, last.steps) == (2, 2, 3, 3)
    assert last.remaining_s == 0
    assert last.images_per_s > 0
    assert math.isfinite(last.loss)
    assert checkpoint.info.training is not None
    assert checkpoint.info.training.val_top1 == watching.epochs[-1].val_top1
    assert checkpoint.info.training.images == 48


@pytest.mark.parametrize(("crop", "batches"), [(32, [48]), (448, [25, 23])])
def test_evaluation_takes_fewer_images_at_a_time_where_they_are_large(
    data: TrainingData, crop: int, batches: list[int]
) -> None:
    class Network(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().forward(x.mean((2, 3)))

    seen: list[int] = []
    evaluate_model(Network(3, 12), data.train, Preprocess(crop, crop))
    assert seen == batches


def test_training_gives_up_where_the_loss_is_not_finite(data: TrainingData, tmp_path: Path) -> None:
    state = start(data, replace(CONFIG, learning_rate=1e30))
    with pytest.raises(
        TrainingError, match="the loss is (nan|inf) at step .*; start again with a lower --learning-rate and"
    ):
        run(state, data, tmp_path / "run", Watching())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": replace(CONFIG, batch_size=8)}, "was being trained with batch_size 16, now it is 8"),
        ({"config": replace(CONFIG, augmentation=Augmentation())}, "was being trained with flip False, now it is True"),
        (
            {"batch_size": 15},
            "in batches of 16, in so many processes they are of 15; give the settings of before, or start",
        ),
        ({"images_sha256": "other"}, "was being trained on other images"),
        ({"start": "other"}, "was being trained from other weights"),
        ({"info": CheckpointInfo(("a", "b"), PREPROCESS)}, "with other classes, preprocessing or network"),
    ],
)
def test_training_does_not_go_on_with_something_else(
    data: TrainingData, change: dict[str, object], sentence: str
) -> None:
    saved = start(data)
    with pytest.raises(TrainingError, match=sentence):
        check_same_training(saved, replace(saved, **change), Path("run"))  # type: ignore[arg-type]


def gnet_edge(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], cwd=cwd, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"epoch {epoch:>3}"):
            return
    pytest.fail(f"epoch {epoch} never came")


def test_train_command_survives_ctrl_c_and_sigkill(work: Path) -> None:
    """A real process, interrupted after its first epoch and killed after its fourth, ends as the one left alone."""
    arguments = (*TRAIN, "--epochs", "8")
    first = gnet_edge(work, *arguments)
    wait_for_epoch(first, 1)
    first.send_signal(signal.SIGINT)
    _, text = first.communicate()
    assert first.returncode == 1
    stopped = r"gnet-edge: training stopped (in epoch \d after step \d of \d|after epoch \d of 8) and was saved"
    assert re.match(stopped, text.strip().splitlines()[-1])
    second = gnet_edge(work, *arguments)
    wait_for_epoch(second, 4)
    second.kill()
    second.wait()  # not for its loaders, which have the other end of the pipe and the folder's lock
    third = gnet_edge(work, *arguments)
    _, text = third.communicate()
    assert third.returncode == 0, text
    second.communicate()
    assert "epoch   1" not in text
    assert not list((work / "run").glob(".*.tmp-*"))
    alone = gnet_edge(work, *TRAIN[:-1], "alone", "--epochs", "8")
    _, text = alone.communicate()
    assert alone.returncode == 0, text
    a, b = (read_checkpoint(work / name / "checkpoint.safetensors") for name in ("run", "alone"))
    assert same(a.weights, b.weights)


@pytest.mark.parametrize(("step", "more"), [(0, ""), (34, " after step 34")])
def test_display_says_where_a_training_goes_on(step: int, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    TrainingDisplay(visible=True).on_resume(8, step)
    TrainingDisplay(visible=False).on_resume(8, step)
    assert capsys.readouterr().err == f"going on with epoch 8{more}\n"


def test_display_that_cannot_be_written_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    report = EpochReport(1, 2.0, 0.5, 0.5, 1.0, learning_rate=0.1, images_per_s=9.0, seconds=1.0)
    full = Path("/dev/full").open("w", buffering=1, encoding="utf-8")  # noqa: SIM115  (closing it fails)
    monkeypatch.setattr(sys, "stderr", full)
    TrainingDisplay(visible=True).on_epoch(report)
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_ctrl_c_in_a_terminal_is_acknowledged_in_the_bar(work: Path) -> None:
    terminal, child = pty.openpty()
    command = ["setsid", "--ctty", *COMMAND, *TRAIN, "--epochs", "500"]
    process = subprocess.Popen(command, cwd=work, stdin=child, stdout=child, stderr=child)
    os.close(child)
    seen, asked = "", False
    with suppress(OSError):  # nobody has the other side any more
        while part := os.read(terminal, 4096).decode(errors="replace"):
            seen += part
            if not asked and "epoch   1" in seen:
                os.write(terminal, b"\x03")
                asked = True
    os.close(terminal)
    assert process.wait() == 1
    assert "ending this step" in seen
    assert "and was saved" in seen


def test_train_command_ends_with_one_line_where_a_loader_is_killed(work: Path) -> None:
    process = gnet_edge(work, *TRAIN, "--epochs", "500", "--workers", "2")
    wait_for_epoch(process, 1)
    beside = subprocess.run(
        [*COMMAND, *TRAIN, "--epochs", "500"], cwd=work, capture_output=True, text=True, check=False
    )
    assert beside.stderr == "gnet-edge: another process writes into run; wait for it, or give another --out\n"
    [loader, *_] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(loader), signal.SIGKILL)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 1
    sentence = "a process that loads images has ended: killed, or without memory; free some, or load .*"
    assert re.fullmatch(rf"(epoch .*\n)*gnet-edge: {sentence}\n", text), text


def test_nothing_is_said_of_a_save_that_the_end_of_a_loader_interrupts() -> None:
    """safetensors takes PyTorch's error about it for a sign of an old PyTorch; the next batch says what it is."""
    program = """
import torch
from safetensors.torch import save
from googlenet_edge.console import run_command
whole = torch.Tensor.untyped_storage
def interrupted(tensor):
    torch.Tensor.untyped_storage = whole
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
torch.Tensor.untyped_storage = interrupted
run_command(lambda: print(len(save({"weight": torch.zeros(2)})), torch.Tensor.untyped_storage is whole))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("80 True\n", "")


def test_image_that_is_changed_after_it_was_checked_is_named_as_a_loader_finds_it(
    photos: Path, data: TrainingData, tmp_path: Path
) -> None:
    images = open_images(shutil.copytree(photos / "train", tmp_path / "train"))
    for path in images.paths:
        path.write_bytes(b"Dear dog")
    folder = tmp_path / "run"
    folder.mkdir()
    sentence = rf"^{tmp_path}/train/\S+ is not a JPEG, PNG or WebP image; convert or remove it$"
    with pytest.raises(DamagedImageError, match=sentence):
        changed = replace(data, train=images)
        train_from(start(data), changed, folder=folder, rank=Rank(), observer=Watching(), workers=1)


@pytest.mark.parametrize("problem", [ConnectionResetError("Connection reset by peer"), EOFError(), FileNotFoundError()])
def test_loader_that_ends_while_it_hands_images_over_is_told(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """What a connection says of it depends on where it was."""

    def broken(_: object) -> Iterator[object]:
        raise problem
        yield

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", broken)
    with pytest.raises(TrainingError, match="^a process that loads images has ended: killed, or without memory;"):
        run(start(data), data, tmp_path / "run", Watching())


def test_training_where_memory_ends_says_what_to_give(data: TrainingData, tmp_path: Path) -> None:
    class Greedy(Watching):
        def on_step(self, report: StepReport) -> None:
            torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(TrainingError, match="there is not enough memory; free some, or give a smaller --batch-size"):
        run(start(data), data, tmp_path / "run", Greedy())


@pytest.mark.parametrize(
    "problem", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_training_whose_network_has_no_room_says_so(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def full(*_: object) -> None:
        raise problem

    monkeypatch.setattr("googlenet_edge.training_loop.placed", full)
    with pytest.raises(TrainingError, match="there is not enough memory; free some, or give a smaller --batch-size"):
        run(start(data), data, tmp_path / "run", Watching())


@pytest.mark.parametrize("out", ["photos/model", "photos/train/model"])
def test_training_into_a_class_of_images_is_refused(photos: Path, tmp_path: Path, out: str) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    if out == "photos/model":  # a folder that is to be split
        for name in ("val", "train"):
            shutil.copytree(tmp_path / "photos" / name, tmp_path / "split", dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "photos")
        (tmp_path / "split").rename(tmp_path / "photos")
    images = out.rpartition("/")[0]
    sentence = f"{out} is inside of {images}, where each folder is a class of images; give another --out"
    refused_without_a_trace(sentence, "train", "--data", "photos", "--out", out, cwd=tmp_path)


def test_training_into_a_bundle_is_refused(photos: Path, tmp_path: Path) -> None:
    path = write_colour_bundle(tmp_path / "bundle")
    request = TrainRequest(photos, path, PREPROCESS, CONFIG)
    with pytest.raises(OutputError, match=r"checkpoint\.safetensors: \S+bundle is a bundle; give another --out"):
        train(request, observer=Watching(), rank=Rank(0, 1))
    assert read_bundle(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", '{"step": 1, "accuracy": 0.5}\n'),
        ("metrics.jsonl", '{"epoch": "first", "loss": 2.0}\n'),
        ("metrics.jsonl", "epoch 1: 0.5\n"),
        ("metrics.jsonl", '{"epoch": 1}'),
        ("metrics.jsonl", '{"epoch":1,"loss":2.0,\n'),
        ("metrics.jsonl", OUR_LINE + '{"epoch": 2, "accuracy": 0.5}\n'),
        ("run.json", '{"data": 3}'),
        ("run.json", "[]"),
    ],
)
def test_training_does_not_replace_what_somebody_else_wrote(tmp_path: Path, name: str, text: str) -> None:
    """It has not even looked for images."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(text)
    sentence = f"run/{name} is not of a training by gnet-edge; give another --out"
    refused_without_a_trace(sentence, "train", "--data", "none", "--out", "run", cwd=tmp_path)


def test_training_refuses_lines_that_are_no_utf_8_and_a_folder_in_their_place(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_bytes('{"name":"café"}'.encode("latin-1"))
    sentence = "run/metrics.jsonl is not of a training by gnet-edge; give another --out"
    refused_without_a_trace(sentence, "train", "--data", "none", "--out", "run", cwd=tmp_path)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    sentence = "cannot write run/metrics.jsonl: it is a folder, a device or a pipe; give another --out"
    refused_without_a_trace(sentence, "train", "--data", "none", "--out", "run", cwd=tmp_path)


def test_training_begins_anew_over_lines_of_its_own_and_what_a_kill_cut_off(tmp_path: Path) -> None:
    """Here it ends at once, since there are no images."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(OUR_LINE + OUR_LINE[:20])
    write_run_record(tmp_path / "run", RunRecord("elsewhere", 3))
    sentence = "none is not a folder; give one with .*"
    refused_without_a_trace(sentence, "train", "--data", "none", "--out", "run", cwd=tmp_path)
    (tmp_path / "run" / "metrics.jsonl").write_text(OUR_LINE[:20])
    refused_without_a_trace(sentence, "train", "--data", "none", "--out", "run", cwd=tmp_path)


def test_training_with_other_settings_is_refused_before_all_images_are_decoded(
    data: TrainingData, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    state = start(data)
    write_state(tmp_path / "run", replace(state, average=copy.deepcopy(state.average)))
    sentence = "run was being trained with epochs 2, now it is 30; give the settings of before, or start anew in .*"
    refused_without_a_trace(sentence, "train", "--data", "none", "--out", "run", "--no-flip", cwd=tmp_path)


def test_a_state_whose_tensors_are_another_network_s_is_refused(data: TrainingData, tmp_path: Path) -> None:
    state = start(data)
    write_state(tmp_path, replace(state, average={n: t.clone() for n, t in state.average.items() if n != "fc.bias"}))
    with pytest.raises(CheckpointError, match=r"training-state.safetensors is of another .*: fc.bias is missing"):
        read_state(tmp_path)


def test_training_keeps_which_weights_it_began_with_and_warns_where_they_may_have_seen_val(
    photos: Path, data: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the first was judged on other images, some of those of the second may be what it learned from."""
    record = data.record(CONFIG, (0.5, 0.9), 1.0)
    first = run(start(data, replace(CONFIG, epochs=1)), data, tmp_path / "first", Watching())
    for val_sha256, warnings in ((data.val_sha256, []), ("another", [MAYBE_SEEN])):
        begun = replace(first, info=replace(first.info, training=replace(record, val_images_sha256=val_sha256)))
        write_checkpoint(tmp_path / f"{val_sha256}.safetensors", begun)
        weights = read_checkpoint(tmp_path / f"{val_sha256}.safetensors")
        caplog.clear()
        config = replace(CONFIG, epochs=1, learning_rate=0.01)
        request = TrainRequest(photos, tmp_path / f"from {val_sha256}", PREPROCESS, config, start=weights, workers=0)
        found = read_checkpoint(train(request, observer=Watching(), rank=Rank())).info.training
        assert found is not None
        assert found.parent_sha256 == weights.sha256
        assert found.val_images_sha256 == ("" if warnings else data.val_sha256)
        assert caplog.messages == warnings


def test_validation_images_that_are_trained_on_are_told(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = shutil.copytree(photos, tmp_path / "photos")
    image = next((copied / "train").glob("*/*.jpg"))
    shutil.copy(image, copied / "val" / image.parent.name / "again.jpg")
    check_training_data(copied, preprocess=PREPROCESS, seed=0, when_damaged=refuse_damaged, progress=None)
    again = f"{copied}/val/{image.parent.name}/again.jpg"
    assert caplog.messages == [f"training has 1 of the validation images, too, such as {again}; remove one of each"]


def test_validation_images_are_decoded_once(photos: Path, tmp_path: Path) -> None:
    """While they are checked, and not again in every epoch."""
    copied = shutil.copytree(photos, tmp_path / "photos")
    data = check_training_data(copied, preprocess=PREPROCESS, seed=0, when_damaged=refuse_damaged, progress=None)
    model = GoogLeNet(GoogLeNetConfig(len(data.val.class_names), widths=SMALL)).eval()
    before = data.evaluated(model)
    shutil.rmtree(copied / "val")
    assert data.evaluated(model) == before


def test_average_is_that_of_the_weights_after_every_step(data: TrainingData, tmp_path: Path) -> None:
    """What is saved is not the weights themselves: after two steps it is between the first ones and the last."""
    before = start(data, replace(CONFIG, epochs=1))
    batch = len(data.train) // 2
    two_steps = replace(before, config=replace(before.config, batch_size=batch), batch_size=batch)
    seen: list[dict[str, torch.Tensor]] = [before.weights]
    averaging = training_loop._average

    def remember(average: torch.nn.Module, model: torch.nn.Module, *, decay: float) -> None:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        averaging(average, model, decay=decay)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "_average", remember)
        found = run(two_steps, data, tmp_path, Watching()).weights["conv1.conv.weight"]
    expected = seen[0]["conv1.conv.weight"]
    for step, weights in enumerate(seen[1:]):
        decay = ema_decay_at(step, steps=2)
        expected = decay * expected + (1 - decay) * weights["conv1.conv.weight"]
    assert len(seen) == 3
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, seen[2]["conv1.conv.weight"])


def test_evaluation_counts_every_image_under_its_own_label(tmp_path: Path) -> None:
    """Images whose brightness is a class, three batches of them, of which one in seven is four classes too far."""
    for i in range(210):
        label = (i + 4 * (i % 7 == 0)) % 10
        folder = tmp_path / f"{label}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (25 * (i % 10),) * 3).save(folder / f"{i:03}.png")

    class Brightness(torch.nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.classes = torch.nn.Parameter(torch.arange(float(classes)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = (127.5 * x.mean(dim=(1, 2, 3)) + 127.5) / 25
            return -(found[:, None] - self.classes).abs()

    images = open_images(tmp_path)
    top1, top5 = evaluate_model(Brightness(10), images, PREPROCESS)
    assert (round(210 * top1), round(210 * top5)) == (180, 183)
    few = images.take([i for i, label in enumerate(images.labels) if label < 3])
    top1, top5 = evaluate_model(Brightness(3), replace(few, class_names=images.class_names[:3]), PREPROCESS)
    assert (top5, top1 < 1) == (1, True), "of three classes all are among the five best"


def test_torchrun_trains_as_one_process_does(work: Path) -> None:
    """By the real command, in one step on all images; `test_parallel` compares the gradients to the last digits."""
    next((work / "photos" / "train").iterdir()).joinpath("broken.png").write_text("no image")
    common = ("--epochs", "1", "--batch-size", "48", "--no-mixed-precision", "--workers", "0", "--skip-damaged")
    one = gnet_edge(work, *TRAIN, *common)
    _, text = one.communicate()
    assert one.returncode == 0, text
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "googlenet_edge.cli", *TRAIN[:-1], "two", *common]
    two = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("checkpoint: ") == two.stderr.count("left out 1 damaged") == 1
    (alone,), (shared,) = (read_lines(work / name / "metrics.jsonl") for name in ("run", "two"))
    assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert shared["train_top1"] == pytest.approx(alone["train_top1"])


def test_metrics_drop_what_is_run_again_and_what_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch":1,"loss":2.0}\n{"epoch":2,"loss":1.0}\n{"epoch":"x"}\n{"epoch":3,"lo')
    drop_lines_from(path, epoch=2)
    assert path.read_text() == '{"epoch":1,"loss":2.0}\n'


def test_epochs_share_every_batch_between_processes_without_overlap() -> None:
    def batches(epoch: int, **part: int) -> list[list[int]]:
        return [[index for _, index in batch] for batch in Epoch(10, 4, 0, epoch, **part).batches()]

    whole = batches(3)
    parts = [batches(3, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert len({index for batch in whole for index in batch}) == 8
    assert batches(3, first=1) == whole[1:]
    assert batches(4) != whole


def test_every_process_has_as_many_images_of_a_batch_as_all_others_and_at_least_two() -> None:
    sizes = [batch_size_for(*each, processes=3) for each in ((128, 500), (128, 100), (7, 500), (6, 6))]
    assert sizes == [126, 99, 6, 6]
    assert [batch_size_for(0, images) for images in (50_000, 2048, 800, 256, 40, 10)] == [128, 128, 50, 16, 16, 10]
    assert batch_size_for(0, 100, processes=12) == 24
    for wanted, images in ((5, 500), (128, 5)):
        sentence = f"^{images} images in batches of {wanted} are too few for 3 processes; use fewer$"
        with pytest.raises(TrainingError, match=sentence):
            batch_size_for(wanted, images, processes=3)


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64), (200, 40)])
@pytest.mark.parametrize("least", [0.5, 0.7, 1.0])
def test_crops_stay_within_the_image_and_keep_the_least_area(width: int, height: int, least: float) -> None:
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(width), np.arange(height)[:, None]
    image = Image.fromarray(ramp)
    for seed in range(50):
        part = random_crop(image, 200, Augmentation(min_area=least, flip=False), np.random.default_rng(seed))
        pixels = np.asarray(part)
        spans = [int(pixels[..., c].max()) - int(pixels[..., c].min()) for c in (0, 1)]
        assert pixels.shape == (200, 200, 3)
        assert (spans[0] + 2) * (spans[1] + 2) >= least * width * height


def one_batch(folder: Path, epoch: int, *, flip: bool, plain: bool = False) -> torch.Tensor:
    """uint8 ``(N, 32, 32, 3)``: the images of one class, a ramp of red from left to right, as training sees them."""
    ramp = np.zeros((40, 64, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(64) * 4, np.arange(40)[:, None] * 6
    for part, name in product(("train", "val"), ("a/0.png", "a/1.png", "b/0.png", "b/1.png")):
        path = folder / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp).save(path)
    images = open_dataset(folder, seed=0).train
    wild = Augmentation(min_area=0.1, flip=flip, colour=0.5, erase=1.0)
    batches = TrainingBatches(images, Preprocess(40, 32), wild, workers=0)
    return next(batches.of(Epoch(len(images), len(images), 0, epoch, plain=plain)))[0]


def test_batches_draw_nothing_that_others_would_draw(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    one_batch(tmp_path, 0, flip=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_decoded_once_where_there_is_room(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are the same from then on, whatever becomes of their files."""
    images = open_images(photos / "train")
    decoded, decode = list[Path](), augment.decode_rgb

    def count(path: Path, *, short_side: int) -> Image.Image:
        decoded.append(path)
        return decode(path, short_side=short_side)

    monkeypatch.setattr(augment, "decode_rgb", count)
    epochs = [Epoch(len(images), 16, 0, epoch) for epoch in (0, 1)]

    def pixels() -> torch.Tensor:
        batches = TrainingBatches(images, PREPROCESS, Augmentation(), workers=0)
        return torch.cat([batch[0] for epoch in epochs for batch in batches.of(epoch)])

    kept = pixels()
    assert sorted(decoded) == sorted(images.paths)
    monkeypatch.setattr(augment, "DECODED_BYTES", 5 * 32 * 32 * 3)
    decoded.clear()
    assert torch.equal(pixels(), kept)
    assert len(images) < len(decoded) < 2 * len(images)


def test_an_image_is_mirrored_in_every_other_epoch(tmp_path: Path) -> None:
    def mirrored(epoch: int, *, flip: bool) -> set[bool]:
        batch = one_batch(tmp_path, epoch, flip=flip, plain=True).int()
        return {bool(image[0, 0, 0] > image[0, -1, 0]) for image in batch}

    assert mirrored(0, flip=True) == mirrored(1, flip=True) == {False, True}
    assert mirrored(0, flip=False) == mirrored(1, flip=False) == {False}


def test_plain_epochs_see_the_squares_that_evaluation_cuts_at_random_places(tmp_path: Path) -> None:
    plain, again = (one_batch(tmp_path, epoch, flip=False, plain=True).int() for epoch in (3, 4))
    spans = {(int(image[0, -1, 0] - image[0, 0, 0]), int(image[-1, 0, 1] - image[0, 0, 1])) for image in plain}
    assert all(abs(red - 31 * 4) <= 2 and abs(green - 31 * 6) <= 2 for red, green in spans)  # 32 of 40 pixels
    places, next_places = ({tuple(image[0, 0].tolist()) for image in each} for each in (plain, again))
    assert len(places) > 1
    assert places.isdisjoint(next_places)
    assert not torch.equal(one_batch(tmp_path, 3, flip=False), plain)  # of which parts are erased


@pytest.mark.parametrize("preprocess", [PREPROCESS, imagenet_normalization(PREPROCESS)], ids=["plain", "by channel"])
def test_colours_without_change_leave_the_plain_normalization(preprocess: Preprocess) -> None:
    maps = torch.from_numpy(random_colours(Augmentation(colour=0.0), np.random.default_rng(0)))[None]
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    expected = preprocess.normalize(pixels)
    assert np.abs(to_input(torch.from_numpy(pixels), preprocess, maps).numpy() - expected).max() < 1e-5


def test_colours_change_in_saturation_around_the_luma_in_brightness_and_in_contrast_around_mid_grey() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    maps = np.stack([random_colours(Augmentation(colour=0.5), np.random.default_rng(seed)) for seed in (0, 1)])
    found = to_input(torch.from_numpy(pixels), PREPROCESS, torch.from_numpy(maps)).permute(0, 2, 3, 1)
    for seed, (image, changed) in enumerate(zip(pixels.astype(np.float64), found.numpy(), strict=True)):
        brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.5, 1.5, 3)
        luma = image @ (0.299, 0.587, 0.114)
        expected = brightness * (saturation * image + (1 - saturation) * luma[..., None])
        expected = contrast * (expected - 127.5) + 127.5
        assert np.abs(127.5 * changed + 127.5 - expected).max() < 1e-2


def test_erasing_puts_noise_in_one_rectangle_of_the_asked_share_of_images() -> None:
    erased = 0
    for seed in range(200):
        pixels = np.full((32, 32, 3), 255, np.uint8)
        erase_rectangle(pixels, Augmentation(erase=0.25), np.random.default_rng(seed))
        rows, columns = np.nonzero((pixels < 255).any(axis=2))
        if len(rows):
            erased += 1
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert 0.01 <= height * width / 32**2 <= 0.36
            assert len(rows) >= 0.97 * height * width  # it is full of noise, of which few pixels are white
    assert 30 <= erased <= 70


def test_images_hash_is_that_of_the_checked_files(data: TrainingData, photos: Path) -> None:
    again: Checked = check_images(open_dataset(photos).train, preprocess=PREPROCESS)
    assert again.sha256 == data.train_sha256


# How it starts


def test_first_filters_of_a_training_from_nothing_answer_apart(photos: Path, data: TrainingData) -> None:
    """Their answers on the images themselves are not correlated, and each has one of the other sign beside it."""
    begun = whitened(start(data), data.train, PREPROCESS)
    fresh = start(data)
    filters, random = (state.weights["conv1.conv.weight"] for state in (begun, fresh))
    assert filters.shape == random.shape
    half = len(filters) // 2
    assert torch.equal(filters[half:], -filters[:half])
    assert filters.flatten(1).norm(dim=1).tolist() == pytest.approx([random.flatten(1).norm(dim=1).mean().item()] * 24)

    def correlation(weights: torch.Tensor) -> float:
        pixels = np.stack(list(load_pixels(data.train, PREPROCESS)))
        answers = F.conv2d(torch.from_numpy(PREPROCESS.normalize(pixels)), weights, padding=3, stride=4)
        moments = answers.transpose(0, 1).flatten(1).double()
        products = moments @ moments.t()
        sizes = products.diagonal().sqrt()
        return float((products / sizes / sizes[:, None] - torch.eye(len(weights))).abs().mean())

    assert correlation(filters[:half]) < 1e-3
    assert correlation(random[:half]) > 0.1
    changed = {name for name in begun.weights if not torch.equal(begun.weights[name], fresh.weights[name])}
    assert changed == {"conv1.conv.weight"}


def test_kernels_of_a_training_from_nothing_hand_their_input_on() -> None:
    """As far as there are filters for it; the others, the first convolution and all that reduces stay as they were."""
    fresh = first_state(CheckpointInfo(("a", "b"), PREPROCESS), CONFIG, images_sha256="")
    begun = dirac_initialized(fresh).weights
    x = torch.randn(2, 64, 5, 5, generator=torch.Generator().manual_seed(0))
    answers = F.conv2d(F.conv2d(x, begun["conv2.conv.weight"]), begun["conv3.conv.weight"], padding=1)
    assert torch.equal(answers[:, :64], x)
    assert torch.equal(begun["conv3.conv.weight"][64:], fresh.weights["conv3.conv.weight"][64:])
    changed = {name for name in begun if not torch.equal(begun[name], fresh.weights[name])}
    blocks = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    widening = {f"inception{block}.branch{i}.1.conv.weight" for block in blocks for i in (2, 3)}
    assert changed == {"conv2.conv.weight", "conv3.conv.weight", *widening}


def test_biases_of_normalizations_learn_faster_from_nothing_than_from_a_checkpoint(
    data: TrainingData, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=1, learning_rate=1e-4, mixed_precision=False)
    one_step = replace(start(data, config), config=config)
    names = "conv1.bn.bias", "conv1.bn.weight", "fc.bias"

    def moved(state: TrainingState, folder: Path) -> list[float]:
        with pytest.raises(StoppedError):
            run(state, data, folder, Watching(1))
        saved = read_state(folder)
        assert saved is not None
        return [float((saved.weights[name] - state.weights[name]).norm()) for name in names]

    anew = moved(one_step, tmp_path / "anew")
    further = moved(replace(one_step, start="0" * 64), tmp_path / "further")
    assert [a / b for a, b in zip(anew, further, strict=True)] == pytest.approx([8, 1, 1], rel=1e-3)


def test_biases_of_normalizations_over_several_gpus_learn_as_fast() -> None:
    """`make_parallel` puts those in before there is an optimizer."""

    def moved(model: torch.nn.Module) -> torch.Tensor:
        down = descent.Descent(model, CONFIG, steps=9, device=torch.device("cpu"), mend="", at_random=True)
        down.step(0, model(torch.linspace(-1, 1, 96).view(2, 3, 4, 4)).exp().sum())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(0)
    one = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4))
    several = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(one))  # type: ignore[no-untyped-call]
    assert torch.equal(moved(several), moved(one))


def test_kernels_are_moved_as_far_in_every_layer_from_nothing(data: TrainingData, tmp_path: Path) -> None:
    """Not from a checkpoint, whose kernels keep their lengths."""
    config = replace(CONFIG, epochs=1, learning_rate=1e-4)
    begun = replace(start(data, config), config=config)
    names = [name for name in begun.weights if name.endswith("conv.weight")]

    def lengths(state: TrainingState, folder: Path) -> list[float]:
        with pytest.raises(StoppedError):
            run(state, data, folder, Watching(1))
        saved = read_state(folder)
        assert saved is not None
        return [float(saved.weights[name].norm() / len(saved.weights[name]) ** 0.5) for name in names]

    assert lengths(begun, tmp_path / "anew") == pytest.approx([1] * 59, rel=0.1)
    before = [float(begun.weights[name].norm() / len(begun.weights[name]) ** 0.5) for name in names]
    assert lengths(replace(begun, start="0" * 64), tmp_path / "further") == pytest.approx(before, rel=0.1)


def test_training_from_weights_keeps_their_filters(photos: Path, tmp_path: Path) -> None:
    """Only where there are none are the first made of the images, and others to hand their input on."""
    done = [tmp_path / name for name in ("anew", "further")]
    config = replace(CONFIG, epochs=1, learning_rate=1e-12)
    train(TrainRequest(photos, done[0], PREPROCESS, config, workers=0), observer=Watching(), rank=Rank())
    first = read_checkpoint(done[0] / "checkpoint.safetensors")
    begun = TrainRequest(photos, done[1], PREPROCESS, replace(config, seed=1), start=first, workers=0)
    train(begun, observer=Watching(), rank=Rank())
    anew, further = (read_checkpoint(folder / "checkpoint.safetensors").weights for folder in done)
    filters = anew["conv1.conv.weight"]
    assert torch.allclose(filters[:32], -filters[32:], atol=1e-6), "made of the images"
    assert torch.allclose(anew["conv2.conv.weight"].flatten(1), torch.eye(64), atol=1e-6)
    for name in ("conv1.conv.weight", "conv2.conv.weight", "conv3.conv.weight"):
        assert torch.allclose(further[name], anew[name], atol=1e-6)


def test_image_that_is_gone_when_the_filters_are_made_is_named(photos: Path, tmp_path: Path) -> None:
    """It was there when the images were checked."""
    dataset = open_dataset(shutil.copytree(photos, tmp_path / "photos"))
    state = first_state(CheckpointInfo(dataset.train.class_names, PREPROCESS), CONFIG, images_sha256="")
    dataset.train.paths[0].unlink()
    with pytest.raises(DamagedImageError, match=re.escape(str(dataset.train.paths[0]))):
        whitened(state, dataset.train, PREPROCESS)
