"""What a training run carries from step to step, and all that a checkpoint holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.popularity import PopularityOverTime
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.optimiser import make_optimiser


class TrainState(NamedTuple):
    """What a run carries from step to step, a pytree of arrays. It has no random state: random numbers are a
    function of (seed, step)."""

    params: Any  # nested dict of float32
    opt_state: optax.OptState
    sketch: frequency.Sketch
    step: jax.Array  # int32 [], steps done
    failed_step: jax.Array  # int32 [], the first step whose loss or gradient was not finite; -1: none


class Tables(NamedTuple):
    """What every step reads and no step changes; `open_training_data` makes it."""

    item_features: ItemTable  # unit rows
    positive_table: jax.Array  # float32 [A, S], see positives.positive_table
    seed: jax.Array  # uint32 [] of the run; an argument of the step, so that all seeds share one program
    text_map: jax.Array | None = None  # float32 [K + 1, D_item - K], see text_map.vectors_from_text
    popularity: PopularityOverTime | None = None


def create(
    config: Config, sizes: Sizes, seed: int | jax.Array | None = None
) -> tuple[nnx.GraphDef, TrainState]:
    """The model's structure and the state before step 0; `seed` as in `PinnerFormer`."""
    graphdef, params = PinnerFormer(config, sizes, seed).split()
    return graphdef, TrainState(
        params=params,
        opt_state=make_optimiser(config.training).init(params),
        sketch=frequency.empty_sketch(config.objective, sizes.items),
        step=jnp.zeros((), jnp.int32),
        failed_step=jnp.full((), -1, jnp.int32),
    )
