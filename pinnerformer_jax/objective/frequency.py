"""Count-min sketch on the device: how often each item is a positive.

Its memory does not grow with the catalogue. Counts are never below the true counts, except for rounding. The
sketch is part of the train state and of the checkpoint. Counts decay, so that frequencies follow the data and
stay small enough for float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.config import ObjectiveConfig

# Odd multipliers of multiply-shift hashing (Dietzfelbinger et al. 1997), and offsets: fixed random numbers.
_RANDOM = np.random.Generator(np.random.Philox(20_220_504)).integers(0, 2**32, (8, 2), np.uint32)
_MULTIPLIER, _OFFSET = _RANDOM[:, 0] | np.uint32(1), _RANDOM[:, 1]


class Sketch(NamedTuple):
    """Counts of positives, decaying by step; see `empty_sketch` and `update`."""

    counts: jax.Array  # float32 [depth, width]
    total: jax.Array  # float32 []


def empty_sketch(config: ObjectiveConfig) -> Sketch:
    """The sketch before the first step: `sketch_depth` rows of `sketch_width` counters, all zero.

    Args:
        config: the `objective` section of a config.
    """
    counts = jnp.zeros((config.sketch_depth, config.sketch_width), jnp.float32)
    return Sketch(counts, jnp.zeros((), jnp.float32))


def update(sketch: Sketch, items: Int[Array, " n"], valid: Bool[Array, " n"], *, decay: float) -> Sketch:
    """Decay the counts, then count each valid item once.

    Args:
        sketch: before the step.
        items: int32 [n], with repetitions.
        valid: which of them are counted.
        decay: share of the old counts that is kept.
    """
    one = valid.astype(jnp.float32)
    rows = jnp.arange(sketch.counts.shape[0])[:, None]
    # The step is counted on its own first: adding ones to a float32 counter above 2^24 does not change it.
    new = jnp.zeros_like(sketch.counts).at[rows, _columns(sketch, items)].add(one[None, :])
    return Sketch(sketch.counts * decay + new, sketch.total * decay + jnp.sum(one))


def frequency(sketch: Sketch, items: Int[Array, " n"]) -> Float[Array, " n"]:
    """Share of each item among all counted positives, at least the true share; 0 before the first count."""
    rows = jnp.arange(sketch.counts.shape[0])[:, None]
    least = jnp.min(sketch.counts[rows, _columns(sketch, items)], axis=0)
    return least / jnp.maximum(sketch.total, 1.0)


def _columns(sketch: Sketch, items: Int[Array, " n"]) -> Int[Array, "depth n"]:
    depth, width = sketch.counts.shape
    mixed = items.astype(jnp.uint32)[None, :] * _MULTIPLIER[:depth, None] + _OFFSET[:depth, None]
    return (mixed >> np.uint32(32 - (width.bit_length() - 1))).astype(jnp.int32)
