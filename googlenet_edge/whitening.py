"""The first convolution of a training that starts at random: filters that whiten patches of its images.

Neighbouring pixels are alike, so random filters answer almost alike, and training has to tell them apart. The main
directions in which patches differ are apart from the start; each is there with both signs, because a ReLU follows.
Source: Page, "How to Train Your ResNet 8", and Jordan, arXiv 2404.00498, section 3.2. There these filters stay as they
are; here they are trained like all others.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from googlenet_edge.dataset import ImageSet, load_pixels
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.training_state import TrainingState

FIRST = "conv1.conv.weight"
IMAGES = 500
_STRIDE = 4


def whitened(state: TrainingState, images: ImageSet, preprocess: Preprocess) -> TrainingState:
    """``state`` with filters of the first convolution made from at most 500 images, evenly from all classes.

    They are as long as the random ones in the mean. Raises `DamagedImageError`.
    """
    random = state.weights[FIRST]
    cout, _, kernel, _ = random.shape
    some = images.take(range(0, len(images), -(-len(images) // IMAGES)))
    directions = torch.linalg.eigh(_second_moments(some, preprocess, kernel)).eigenvectors.t().flip(0)
    half = directions[: (cout + 1) // 2]
    filters = torch.cat([half, -half])[:cout].float() * random.flatten(1).norm(dim=1).mean()
    weights = {**state.weights, FIRST: filters.view_as(random)}
    return replace(state, weights=weights, average=weights)


def _second_moments(images: ImageSet, preprocess: Preprocess, kernel: int) -> Tensor:
    """float64 ``(3 × kernel², 3 × kernel²)``: sums over patches of the products of any two of their values."""
    size = len(preprocess.mean) * kernel**2
    sums = torch.zeros(size, size, dtype=torch.float64)
    for pixels in load_pixels(images, preprocess):
        x = torch.from_numpy(preprocess.normalize(pixels[None]))
        patches = F.unfold(x, kernel, padding=kernel // 2, stride=_STRIDE)[0].double()
        sums += patches @ patches.t()
    return sums
