"""How vectors lie around their mean, made more even. Our choice; PinSage's authors do not say what they do.

Vectors of a graph's items have much in common, and most of what is left lies along few of their axes. A mean
of several, as towers begin with, then tells less. Taking off the common part is Mu & Viswanath 2018; making
the axes equally wide is whitening.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from sklearn.preprocessing import normalize

ROUNDING = 1e-6
"""An axis whose variance is less than this share of the greatest holds nothing but rounding, and is scaled as
the widest is."""


class Spread(NamedTuple):
    """Of vectors of D numbers."""

    centre: np.ndarray  # float32 [D] their mean
    axes: np.ndarray  # float32 [D, D] scales them along their principal axes


def spread_of(vectors: Float32[np.ndarray, "n d"], whitening: float) -> Spread:
    """The mean, and a symmetric map that divides each principal axis by its standard deviation to the power
    `whitening`: 0 leaves them, 1 makes them equally wide."""
    centre = vectors.mean(axis=0)
    away = vectors - centre
    variance, axes = np.linalg.eigh(away.T @ away / max(len(away), 1))
    widest = variance[-1] or 1.0
    scale = np.where(variance > ROUNDING * widest, variance, widest) ** (-whitening / 2)
    return Spread(centre, (axes * scale) @ axes.T)


def evened(vectors: Float32[np.ndarray, "n d"], spread: Spread) -> Float32[np.ndarray, "n d"]:
    """Unit rows around the centre, scaled; zero rows stay so."""
    return normalize((vectors - spread.centre) @ spread.axes * vectors.any(axis=1, keepdims=True), copy=False)
