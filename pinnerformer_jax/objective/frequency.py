"""How often each item is a positive, counted on the device.

Up to `objective.exact_counts` items each has a counter of its own, 4 bytes beside its vector. Of more items a
count-min sketch counts, as in the paper. Its memory is fixed, and its counts are never below the true ones,
except for rounding. For rare items they are far above: `bench counts` says how far. The counts are part of
the train state and of the checkpoint. They decay, so that frequencies follow the data and stay small enough
for float32.
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

    counts: jax.Array  # float32 [items]: exact; or [depth, width]
    total: jax.Array  # float32 []


def empty_sketch(config: ObjectiveConfig, items: int = 0) -> Sketch:
    """The counts before the first step, all zero: one an item, or `sketch_depth` rows of `sketch_width`.

    Args:
        config: the `objective` section of a config.
        items: of the catalogue; 0: not known, and then a sketch counts.
    """
    if 0 < items <= config.exact_counts:
        shape: tuple[int, ...] = (items,)
    else:
        shape = config.sketch_depth, config.sketch_width or max(1 << (items // 16).bit_length(), 1 << 18)
    return Sketch(jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.float32))


def update(sketch: Sketch, items: Int[Array, " n"], valid: Bool[Array, " n"], *, decay: float) -> Sketch:
    """Decay the counts, then count each valid item once.

    Args:
        sketch: before the step.
        items: int32 [n], with repetitions.
        valid: which of them are counted.
        decay: share of the old counts that is kept.
    """
    one = valid.astype(jnp.float32)
    where = places(sketch, items)
    # The step is counted on its own first: adding ones to a float32 counter above 2^24 does not change it.
    new = jnp.zeros_like(sketch.counts).at[where].add(one if len(where) == 1 else one[None, :])
    return Sketch(sketch.counts * decay + new, sketch.total * decay + jnp.sum(one))


def frequency(sketch: Sketch, items: Int[Array, " n"]) -> Float[Array, " n"]:
    """Share of each item among all counted positives, exact or at least the true share; 0 before the first
    count."""
    counts = sketch.counts[places(sketch, items)]
    if counts.ndim > 1:
        counts = jnp.min(counts, axis=0)
    return counts / jnp.maximum(sketch.total, 1.0)


def places(sketch: Sketch, items: Int[Array, " n"]) -> tuple[jax.Array, ...]:
    """Index of the items' counters."""
    if sketch.counts.ndim == 1:
        return (items,)
    depth, width = sketch.counts.shape
    mixed = items.astype(jnp.uint32)[None, :] * _MULTIPLIER[:depth, None] + _OFFSET[:depth, None]
    columns = (mixed >> np.uint32(32 - (width.bit_length() - 1))).astype(jnp.int32)
    return jnp.arange(depth)[:, None], columns
