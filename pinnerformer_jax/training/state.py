"""What a training run carries from step to step, and all that a checkpoint holds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.model.start import align_towers
from pinnerformer_jax.model.towers import PinnerFormer, Sizes
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.optimiser import make_optimiser


class TrainState(NamedTuple):
    """A pytree of arrays. Random numbers need no state: they are a function of (seed, step)."""

    params: Any  # nested dict of float32
    opt_state: optax.OptState
    sketch: frequency.Sketch
    step: jax.Array  # int32 [], steps done
    failed_step: jax.Array  # int32 [], the first step whose loss or gradient was not finite; -1: none


class Tables(NamedTuple):
    """What every step reads and none changes."""

    item_features: ItemTable  # unit rows
    positive_table: jax.Array  # float32 [A, S], see positives.positive_table
    seed: jax.Array  # uint32 [], data, so that all seeds share one compiled program


def build_model(config: Config, sizes: Sizes, seed: int | jax.Array | None = None) -> PinnerFormer:
    """A model before its first step, drawn by the config's seed or by one that is data."""
    excess = config.objective.initial_temperature - config.objective.min_temperature
    rngs = nnx.Rngs(jax.random.key(config.training.seed if seed is None else seed))
    model = PinnerFormer(config.model, sizes, math.log(excess), rngs=rngs)
    if config.model.aligned_start:
        align_towers(model, rngs)
    return model


def create(
    config: Config, sizes: Sizes, seed: int | jax.Array | None = None
) -> tuple[nnx.GraphDef, TrainState]:
    """The model's structure and the state before step 0; seed as in `build_model`."""
    graphdef, variables = nnx.split(build_model(config, sizes, seed))
    params = nnx.to_pure_dict(variables)
    return graphdef, TrainState(
        params=params,
        opt_state=make_optimiser(config.training).init(params),
        sketch=frequency.empty(config.objective.sketch_depth, config.objective.sketch_width),
        step=jnp.zeros((), jnp.int32),
        failed_step=jnp.full((), -1, jnp.int32),
    )
