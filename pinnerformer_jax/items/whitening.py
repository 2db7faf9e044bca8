"""Centring and partial whitening of item vectors. Our choice: PinSage's paper does not describe such a step.

The vectors of a graph's items share a large common part, and most of their remaining variance is along few
axes. The mean of several vectors, as the towers compute first, then carries less information. Centring
follows Mu & Viswanath 2018; whitening makes the variances of the axes more equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from sklearn.preprocessing import normalize

ROUNDING = 1e-6
"""An axis whose variance is less than this share of the largest holds rounding errors alone. It is scaled as
the axis of the largest variance."""


class Whitening(NamedTuple):
    """A centre and a linear map for vectors of D numbers."""

    centre: np.ndarray  # float32 [D] mean of the vectors
    axes: np.ndarray  # float32 [D, D] scales them along their principal axes


def fit_whitening(vectors: Float32[np.ndarray, "n d"], whitening: float) -> Whitening:
    """The mean of the vectors, and the symmetric map that divides each principal axis by its standard
    deviation to the power `whitening`: 0 changes nothing, 1 gives every axis the same variance."""
    centre = vectors.mean(axis=0)
    away = vectors - centre
    variance, axes = np.linalg.eigh(away.T @ away / max(len(away), 1))
    widest = variance[-1] or 1.0
    scale = np.where(variance > ROUNDING * widest, variance, widest) ** (-whitening / 2)
    return Whitening(centre, (axes * scale) @ axes.T)


def whiten(vectors: Float32[np.ndarray, "n d"], fitted: Whitening) -> Float32[np.ndarray, "n d"]:
    """Centre and scale the vectors; unit rows. Zero rows stay zero."""
    return normalize((vectors - fitted.centre) @ fitted.axes * vectors.any(axis=1, keepdims=True), copy=False)
