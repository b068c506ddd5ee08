"""How values move together, in the form that weights are rounded by: decomposed once for all factors of the values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_DAMPING = 0.01  # GPTQ's


@dataclass(frozen=True, slots=True, eq=False)
class Triangle:
    """The covariance of n values times their ``factor``, as ``C = L D Lᵀ`` with ones on the diagonal of L.

    Attributes:
        order: intp ``(n,)``, that of the rows of L: values that vary least come first.
        lower: float32 ``(n, n)``: L, of the values without their factor.
        factor: float32 ``(n,)``, all above zero.
    """

    order: NDArray[np.intp]
    lower: NDArray[np.float32]
    factor: NDArray[np.float32]

    def times(self, factor: NDArray[np.float32]) -> Triangle:
        """Of the values times ``factor`` ``(n,)``. L is the same: its element i, j goes with factor i over factor j."""
        return replace(self, factor=self.factor * factor)


def triangle_of(covariance: NDArray[np.floating]) -> Triangle:
    """The triangle of ``(n, n)``, with some noise of its own in every value, the same in all before any factor.

    That of values that know nothing of each other, where it is no covariance: of values that never change, or are not
    finite.
    """
    variance = covariance.diagonal()
    order, ones = np.argsort(variance, kind="stable"), np.ones(len(variance), np.float32)
    noise = _DAMPING * float(variance.mean(dtype=np.float64))
    if 0 < noise < np.inf:
        damped = covariance.take(order, axis=0).take(order, axis=1).astype(np.float64)
        damped[np.diag_indices_from(damped)] += noise
        try:
            lower = np.linalg.cholesky(damped)
            lower /= lower.diagonal().copy()
            return Triangle(order, lower.astype(np.float32), ones)
        except np.linalg.LinAlgError:
            pass
    return Triangle(order, np.eye(len(variance), dtype=np.float32), ones)
