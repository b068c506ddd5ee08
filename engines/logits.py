"""What logits mean: probabilities, and the order of the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits ``(..., classes)`` → probabilities of the same shape, each row summing to 1."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def ranking(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices ``(N, count)`` of the largest logits ``(N, classes)``, best first; of equals the lowest index leads."""
    return np.argsort(-logits, axis=-1, kind="stable")[..., :count]
