"""Channels are taken out exactly: of the convolution, of all that read it, and first those that matter least."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NARROW, PAPER, made_checkpoint, normalized_noise
from numpy.typing import NDArray
from PIL import Image

from googlenet_edge.checkpoint import Checkpoint, build_model, read_checkpoint, write_checkpoint
from googlenet_edge.dataset import open_images
from googlenet_edge.export import check_parity, export, inference_cost, prune
from googlenet_edge.model import GoogLeNet
from googlenet_edge.slim import (
    BLOCKS,
    CLASSIFIER_SOURCES,
    READERS,
    SOURCES,
    LatencyModel,
    channel_importance,
    convolution_widths,
    halved,
    importance_on,
    kept_after,
    macs_a_channel_pair,
    macs_of,
    order_of_removal,
    slimmed,
    widths_from,
)

Kept = dict[str, tuple[int, ...]]
WIDTHS = convolution_widths(PAPER)
EVERYWHERE = dict.fromkeys(("stem", *BLOCKS), 1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def narrow() -> Checkpoint:
    return made_checkpoint(widths=NARROW)


def silenced(checkpoint: Checkpoint, kept: Kept) -> Checkpoint:
    """The same widths; channels that are not kept are always zero, for batch normalization multiplies and adds zero."""
    weights = dict(checkpoint.weights)
    for name, width in convolution_widths(checkpoint.info.widths).items():
        heard = torch.zeros(width)
        heard[list(kept[name])] = 1
        for tensor in ("weight", "bias"):
            weights[f"{name}.bn.{tensor}"] = weights[f"{name}.bn.{tensor}"] * heard
    return replace(checkpoint, weights=weights)


def every_other(widths: dict[str, int]) -> Kept:
    return {name: tuple(range(0, width, 2)) for name, width in widths.items()}


@st.composite
def keep_sets(draw: st.DrawFn) -> Kept:
    """Any channels of the narrow network, at least one of each convolution."""
    widths = convolution_widths(NARROW)
    return {n: tuple(sorted(draw(st.sets(st.integers(0, w - 1), min_size=1)))) for n, w in widths.items()}


def double(checkpoint: Checkpoint) -> GoogLeNet:
    return build_model(checkpoint).double()


def images(count: int = 2) -> torch.Tensor:
    return torch.from_numpy(normalized_noise(count, 3, 32, 32)).double()


def some_importance(widths: dict[str, int], seed: int = 0) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    return {name: random.exponential(size=width) for name, width in widths.items()}


# Surgery


@settings(max_examples=6)
@given(kept=keep_sets())
def test_slim_without_silent_channels_gives_the_same_logits(narrow: Checkpoint, kept: Kept) -> None:
    """Main and auxiliary, whichever channels are silent: float64 shows that nothing but roundings differs."""
    before, slim = silenced(narrow, kept), slimmed(narrow, kept)
    with torch.inference_mode():
        wanted, found = (double(checkpoint).forward_with_aux(images()) for checkpoint in (before, slim))
    for a, b in zip(wanted, found, strict=True):
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()
    assert convolution_widths(slim.info.widths) == {name: len(channels) for name, channels in kept.items()}


def test_slim_changes_the_logits_where_a_channel_was_not_silent(narrow: Checkpoint) -> None:
    with torch.inference_mode():
        before, after = (build_model(c)(images().float()) for c in (narrow, slimmed(narrow, every_other(_narrow()))))
    assert (before - after).abs().max() > 1e-3


def _narrow() -> dict[str, int]:
    return convolution_widths(NARROW)


def test_slim_network_is_exported_under_the_same_names(narrow: Checkpoint) -> None:
    slim = slimmed(narrow, every_other(_narrow()))
    ours, before = (export(checkpoint).model.graph for checkpoint in (slim, narrow))
    assert [node.output for node in ours.node] == [node.output for node in before.node]
    assert check_parity(export(slim), slim, normalized_noise(2, 3, 32, 32)) < 1e-4


def test_slim_of_a_pruned_checkpoint_is_that_of_the_whole_one_pruned(narrow: Checkpoint) -> None:
    kept = every_other(_narrow())
    first, last = slimmed(prune(narrow).checkpoint, kept), prune(slimmed(narrow, kept)).checkpoint
    assert first.info == last.info
    assert all(torch.equal(last.weights[name], tensor) for name, tensor in first.weights.items())


def test_slim_checkpoint_survives_the_disk_and_can_be_slimmed_again(narrow: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, slimmed(narrow, every_other(_narrow())))
    again = slimmed(read_checkpoint(path), dict.fromkeys(WIDTHS, (0,)))
    assert widths_from(dict.fromkeys(WIDTHS, 1)) == again.info.widths
    assert build_model(again)(images().float()).shape == (2, 4)


# What reads what


def test_channels_are_those_that_the_network_reads(narrow: Checkpoint) -> None:
    """Of each convolution and classifier: its weight has as many input channels as its sources have outputs."""
    widths = _narrow()
    of_convolutions = {f"{name}.conv.weight": sources for name, sources in SOURCES.items() if sources}
    for weight, sources in {**of_convolutions, **CLASSIFIER_SOURCES}.items():
        assert narrow.weights[weight].shape[1] == sum(widths[source] for source in sources), weight
    assert READERS["inception5b.branch1"] == ()
    assert READERS["conv3"] == tuple(
        f"inception3a.{branch}" for branch in ("branch1", "branch2.0", "branch3.0", "branch4.1")
    )
    assert widths_from(convolution_widths(PAPER)) == PAPER


def test_costs_are_those_of_the_network() -> None:
    checkpoint = made_checkpoint(crop=64, true_5x5=True, widths=NARROW)
    counted = inference_cost(build_model(checkpoint), 64).macs
    classifier = checkpoint.weights["fc.weight"].numel()
    assert macs_of(_narrow(), macs_a_channel_pair(checkpoint.info)) + classifier == counted


# Importance


def test_importance_is_what_the_loss_would_change_by() -> None:
    """Of one image: the squared slope of the loss where a channel is turned up and down, by the difference."""
    checkpoint = made_checkpoint(widths=NARROW)
    x, labels, turn = images(1), torch.tensor([2]), 1e-6
    found = channel_importance(double(checkpoint), [(x.clone(), labels)])

    def loss(name: str, channel: int, factor: float) -> float:
        model = double(checkpoint)
        for parameter in (model.get_submodule(f"{name}.bn").weight, model.get_submodule(f"{name}.bn").bias):
            parameter.data[channel] *= factor
        with torch.inference_mode():
            return F.cross_entropy(model(x), labels).item()

    for name, channel in (("conv1", 1), ("conv3", 0), ("inception4b.branch2.0", 2), ("inception5b.branch4.1", 1)):
        slope = (loss(name, channel, 1 + turn) - loss(name, channel, 1 - turn)) / (2 * turn)
        assert found[name][channel].item() == pytest.approx(slope**2, rel=1e-3, abs=1e-15), name


def test_importance_of_a_channel_that_nobody_hears_is_zero(narrow: Checkpoint) -> None:
    kept = every_other(_narrow())
    scores = channel_importance(build_model(silenced(narrow, kept)), [(images(4).float(), torch.arange(4))])
    for name, channels in kept.items():
        silent = [i for i in range(_narrow()[name]) if i not in channels]
        assert (scores[name][silent] == 0).all(), name


def test_importance_is_the_mean_over_images_however_they_are_batched(narrow: Checkpoint) -> None:
    model, x, labels = double(narrow), images(4), torch.arange(4)
    whole = channel_importance(model, [(x.clone(), labels)])
    parts = channel_importance(model, [(x[:1].clone(), labels[:1]), (x[1:].clone(), labels[1:])])
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-9) for name in whole)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_importance_on_images_is_that_of_what_is_evaluated_under_its_own_label(tmp_path: Path) -> None:
    """Of more than a batch of images."""
    random = np.random.default_rng(0)
    for i in range(18):
        path = tmp_path / f"{i % 3}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    checkpoint, photos = made_checkpoint(widths=NARROW), open_images(tmp_path)
    pixels = np.stack([np.asarray(Image.open(path)) for path in photos.paths])
    x = torch.from_numpy(checkpoint.info.preprocess.normalize(pixels))
    expected = channel_importance(build_model(checkpoint), [(x, torch.tensor(photos.labels))])
    shown: list[tuple[int, int]] = []
    found = importance_on(checkpoint, photos, progress=lambda *each: shown.append(each))
    for name, scores in found.items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-3, atol=1e-12)
    assert shown == [(16, 18), (18, 18)]


# The order of removal


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), step=st.sampled_from([4, 8, 16]), data=st.data())
def test_removal_takes_the_least_important_channels_and_leaves_every_layer_some(
    seed: int, step: int, data: st.DataObject
) -> None:
    widths = {name: data.draw(st.integers(1, 40), name) for name in ("conv1", "conv3", "inception4a.branch2.0")}
    widths = {**dict.fromkeys(WIDTHS, 5), **widths}
    importance = some_importance(widths, seed)
    order = order_of_removal(importance, LatencyModel(dict.fromkeys(widths, 9), EVERYWHERE), step=step)
    last = kept_after(order, widths)
    assert all(len(last[name]) == min(step, width) for name, width in widths.items())
    kept = kept_after(order[: len(order) // 2], widths)
    for name, channels in kept.items():
        assert len(channels) == widths[name] or len(channels) % step == 0
        gone = set(range(widths[name])) - set(channels)
        assert not gone or importance[name][list(gone)].max() <= importance[name][list(channels)].min()


def test_removal_begins_where_most_time_is_saved_for_what_is_lost() -> None:
    """All channels matter alike; so those of the convolution go first whose channels cost most, by the measurement."""
    importance = {name: np.ones(width) for name, width in WIDTHS.items()}
    slow = order_of_removal(importance, LatencyModel(dict.fromkeys(WIDTHS, 1), {**EVERYWHERE, "inception4c": 50.0}))
    assert {removal.convolution.partition(".")[0] for removal in slow[:20]} == {"inception4c"}
    importance["conv3"] = np.linspace(1e-9, 2e-9, WIDTHS["conv3"])[::-1].copy()
    free = order_of_removal(importance, LatencyModel(dict.fromkeys(WIDTHS, 1), {**EVERYWHERE, "inception4c": 50.0}))
    assert free[0].convolution == "conv3"
    assert free[0].channels == tuple(range(WIDTHS["conv3"] - 8, WIDTHS["conv3"]))


def test_each_removal_costs_least_for_what_it_saves_by_then() -> None:
    widths = dict.fromkeys(WIDTHS, 20)
    importance, model = some_importance(widths), LatencyModel(dict.fromkeys(WIDTHS, 1), EVERYWHERE)
    order = order_of_removal(importance, model)
    for place, taken in enumerate(order):
        assert taken.importance == pytest.approx(importance[taken.convolution][list(taken.channels)].sum())
        waiting = {each.convolution: each for each in reversed(order[place:])}
        costs = {n: each.importance / model.saved_ms(n, len(each.channels), widths) for n, each in waiting.items()}
        assert costs[taken.convolution] == min(costs.values())
        widths[taken.convolution] -= len(taken.channels)


@settings(max_examples=30)
@given(name=st.sampled_from(sorted(WIDTHS)), seed=st.integers(0, 1000))
def test_latency_model_counts_what_the_readers_save_too(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    widths = {each: int(random.integers(9, 50)) for each in WIDTHS}
    macs = {each: int(random.integers(1, 100)) for each in WIDTHS}
    after = {**widths, name: widths[name] - 8}
    assert LatencyModel(macs, EVERYWHERE).saved_ms(name, 8, widths) == macs_of(widths, macs) - macs_of(after, macs)


def test_halved_takes_the_less_important_half_of_one_stage() -> None:
    importance = some_importance(WIDTHS)
    kept = kept_after(halved(importance, "inception3a"), WIDTHS)
    assert all(len(kept[name]) == WIDTHS[name] for name in WIDTHS if not name.startswith("inception3a"))
    assert len(kept["inception3a.branch1"]) == 32
    top = np.argsort(importance["inception3a.branch1"])[-32:]
    assert kept["inception3a.branch1"] == tuple(sorted(top.tolist()))
