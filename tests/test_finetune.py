"""Fine-tuning for INT8: a hard network recovers, the result is a checkpoint like any other, and nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Built, Outcome, contents, copy_of, done, gnet_edge, refused_without_a_trace
from networks import made_checkpoint, normalized_noise
from tiny_bundles import solid

from googlenet_edge.checkpoint import Checkpoint, build_model, is_auxiliary, read_checkpoint, write_checkpoint
from googlenet_edge.engines import finetune, trials
from googlenet_edge.engines.accuracy import Comparison, Evaluation, compare
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.export import export, unfolded
from googlenet_edge.files import sha256_file
from googlenet_edge.target import EngineName

CHECKPOINT = "runs/photos/checkpoint.safetensors"
BRIEFLY = ("--calibration-images", "12", "--epochs", "1", "--batch-size", "32", "--workers", "0")
FINETUNE = ("finetune", CHECKPOINT, "--data", "photos", *BRIEFLY)


@dataclass(frozen=True, slots=True)
class Tuned:
    """A working folder after ``gnet-edge finetune``, and what that said."""

    folder: Path
    outcome: Outcome

    def checkpoint(self, name: str) -> Checkpoint:
        return read_checkpoint(self.folder / "runs" / "photos" / f"{name}.safetensors")


def with_change(points: float) -> Callable[[Evaluation, Evaluation], Comparison]:
    return lambda reference, other: replace(compare(reference, other), top1_change_points=points)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def work(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after training and building. The tests here prove that they leave it alone."""
    folder = copy_of(built.folder, tmp_path_factory.mktemp("finetune") / "work")
    (folder / "gnet-edge.toml").unlink()
    return folder


# The weights


def test_unfolded_weights_export_to_the_same_graph_and_keep_the_auxiliary_heads(tmp_path: Path) -> None:
    checkpoint = made_checkpoint()
    graph = export(checkpoint)
    again = replace(checkpoint, weights=unfolded(graph.weights, checkpoint))
    assert export(again).weights.keys() == graph.weights.keys()
    assert all(np.array_equal(value, graph.weights[name]) for name, value in export(again).weights.items())
    write_checkpoint(tmp_path / "again.safetensors", again)
    again = read_checkpoint(tmp_path / "again.safetensors")
    images = torch.from_numpy(normalized_noise(4, 3, 32, 32))
    with torch.inference_mode():
        before, after = (build_model(c).forward_with_aux(images) for c in (checkpoint, again))
    for expected, found in zip(before, after, strict=True):
        assert (expected - found).abs().max() < 1e-5 * expected.abs().max()


# The command


@pytest.fixture(scope="module")
def tuned(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A working folder after ``finetune``. The network guesses, so an accuracy below that of before tells nothing."""
    folder = copy_of(built.folder, tmp_path_factory.mktemp("tuned") / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "compare", with_change(0.0))
        outcome = done(*FINETUNE, "--json", cwd=folder)
    return Tuned(folder, outcome)


def test_finetune_writes_a_checkpoint_that_names_its_parent(tuned: Tuned) -> None:
    parent, child = tuned.checkpoint("checkpoint"), tuned.checkpoint("finetuned")
    assert child.info.training is not None
    assert parent.info.training is not None
    assert child.info.training.parent_sha256 == parent.sha256
    assert child.info.training.images_sha256 == parent.info.training.images_sha256
    assert replace(child.info, training=None) == replace(parent.info, training=None)
    assert all(torch.equal(parent.weights[name], t) for name, t in child.weights.items() if is_auxiliary(name))
    assert not torch.equal(parent.weights["fc.weight"], child.weights["fc.weight"])
    facts = done("inspect", "runs/photos/finetuned.safetensors", "--json", cwd=tuned.folder)
    assert json.loads(facts.out)["began with the weights of"] == parent.sha256


def test_finetune_says_what_became_of_int8(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rewrites, which a build takes where they are fast, and which may move a sum by a code."""
    monkeypatch.setattr(trials, "_WORTH_TRYING", {EngineName.ONNXRUNTIME: ()})
    report = json.loads(tuned.outcome.out)
    assert report["checkpoint"] == "runs/photos/finetuned.safetensors"
    assert report["before"]["against_fp32"]["reference"] == report["after"]["against_fp32"]["reference"]
    assert report["before"]["accuracy"] == report["gain"]["reference"]
    build = ("build", "--json", "--out", "again", "--calibration-images", "12")
    built = json.loads(done(*build, cwd=tuned.folder).out)["manifest"]
    assert report["before"]["accuracy"] == built["accuracy"]
    for name in ("fp32, the teacher", "int8 before", "int8 after", "as fp32", "McNemar p", "checkpoint: runs/photos"):
        assert name in tuned.outcome.err


def test_finetune_writes_nothing_but_the_checkpoint(tuned: Tuned, built: Built) -> None:
    written = contents(tuned.folder).keys() - contents(built.folder).keys()
    assert {name for name in written if not name.startswith("again")} == {"runs/photos/finetuned.safetensors"}


def test_finetuned_checkpoint_is_built_like_any_other(tuned: Tuned, tmp_path: Path) -> None:
    """Graph and table beside it were those of its parent; they are made anew, and once more for the parent."""
    folder = copy_of(tuned.folder, tmp_path / "work")
    for name in ("finetuned", "checkpoint"):
        checkpoint = folder / "runs" / "photos" / f"{name}.safetensors"
        done("build", checkpoint, "--out", name, cwd=folder)
        lineage = read_bundle(folder / name).manifest.lineage
        assert lineage.checkpoint == sha256_file(checkpoint)
        assert lineage.graph == sha256_file(checkpoint.with_name("googlenet.onnx"))
        assert lineage.calibration == sha256_file(checkpoint.with_name("calibration.json"))


# What is refused


def test_finetune_keeps_the_checkpoint_that_it_starts_from(work: Path) -> None:
    sentence = f"cannot write {CHECKPOINT}: that is the name of something else; give another --out"
    refused_without_a_trace(sentence, *FINETUNE, "--out", CHECKPOINT, cwd=work)


def test_finetune_sees_before_all_work_that_the_result_cannot_be_written(work: Path) -> None:
    sentence = (
        r"cannot write photos/val/stop/.*: .*photos/val/stop/00000.jpg is not a folder that can be written to; .*"
    )
    refused_without_a_trace(sentence, *FINETUNE, "--out", "photos/val/stop/00000.jpg/tuned.safetensors", cwd=work)


def test_finetune_needs_the_images_of_the_training(work: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "checkpoint.safetensors"
    alone.parent.mkdir()
    alone.write_bytes((work / CHECKPOINT).read_bytes())
    sentence = r".*alone does not say which images it was trained on; give --data DIR"
    refused_without_a_trace(sentence, "finetune", alone, cwd=work)


def test_finetune_refuses_images_of_other_classes(work: Path) -> None:
    other = work.parent / "other"
    for name in ("cat", "dog"):
        for i in range(2):
            (other / name).mkdir(parents=True, exist_ok=True)
            solid("red").save(other / name / f"{i}.png")
    sentence = (
        r".*other has classes that are none of the model's 12: cat, dog \(the model's are .*\); name the folders so, or"
        " give the data that the model was .*"
    )
    refused_without_a_trace(sentence, "finetune", CHECKPOINT, "--data", other, cwd=work)


def test_finetune_whose_loss_is_not_finite_writes_nothing(work: Path) -> None:
    sentence = (
        r"the (loss is (nan|inf) at step \d+|weights are not finite after the last step); start again with a lower"
        r" --learning-rate"
    )
    refused_without_a_trace(sentence, *FINETUNE, "--learning-rate", "1e30", cwd=work)


def test_finetune_that_makes_int8_worse_writes_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "compare", with_change(-3.0))
    sentence = (
        r"fine-tuning makes int8 worse: top-1 changes by -3\.00 points \(95 % .*; McNemar p .*\); .*; nothing was"
        r" written\. Build the checkpoint as it is, or try another --learning-rate or more --epochs\n"
    )
    before = contents(work)
    outcome = gnet_edge(*FINETUNE, cwd=work)
    assert re.fullmatch(f"gnet-edge: {sentence}", outcome.err.splitlines(keepends=True)[-1]), outcome.err
    assert (outcome.code, outcome.out, contents(work)) == (1, "", before)
