"""The train step: one per-device function with explicit collectives, mapped over the mesh.

Sampling, towers, loss, gradient and update are one program. Only integers and durations come from the host.
The function takes the gradient of the LOCAL loss and then its `pmean`. That is right under `jax.pmap` and
under `shard_map(check_vma=False)`; under `check_vma=True` the gradient would be too large by the number of
devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jax.stages import Wrapped

from pinnerformer_jax.config import Config, TrainingConfig
from pinnerformer_jax.data.contracts import Batch
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.objective.targets import Objective
from pinnerformer_jax.training.optimiser import learning_rate, make_optimiser
from pinnerformer_jax.training.sharding import AXIS
from pinnerformer_jax.training.state import Tables, TrainState
from pinnerformer_jax.training.training_loss import Metrics, training_loss


def device_loss(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    params: Any,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    *,
    training: bool,
    objective: Objective | None = None,
    parts: tuple[int, ...] = (),
) -> tuple[jax.Array, tuple[frequency.Sketch, Metrics]]:
    """`training_loss` of the parameters at the state's step: what is drawn is a function of (seed, step)."""
    key = jax.random.fold_in(jax.random.key(tables.seed), state.step)
    return training_loss(
        nnx.merge(graphdef, params),
        config,
        batch,
        tables,
        state.sketch,
        key,
        corpus=corpus,
        training=training,
        objective=objective,
        parts=parts,
    )


def device_gradient(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    **options: Any,
) -> tuple[jax.Array, Any, frequency.Sketch, Metrics]:
    """The loss of the global batch and its gradient, the sketch after the step, and metrics; `options` as in
    `device_loss`."""

    def loss_of(params: Any) -> tuple[jax.Array, tuple[frequency.Sketch, Metrics]]:
        return device_loss(config, graphdef, corpus, params, state, batch, tables, training=True, **options)

    (loss, (sketch, metrics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    loss, gradient = jax.lax.pmean((loss, gradient), AXIS)
    return loss, gradient, sketch, metrics


def device_step(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    **options: Any,
) -> tuple[TrainState, Metrics]:
    """One device's part of a train step; `options` as in `device_loss`."""
    loss, gradient, sketch, metrics = device_gradient(
        config, graphdef, corpus, state, batch, tables, **options
    )
    # optax computes float ** int
    with jax.named_scope("optimiser"), jax.numpy_dtype_promotion("standard"):
        updates, opt_state = make_optimiser(config.training).update(gradient, state.opt_state, state.params)
        rate = learning_rate(config.training)(state.step)
    norm = optax.tree.norm(gradient)
    failed = ~(jnp.isfinite(loss) & jnp.isfinite(norm)) & (state.failed_step < 0)
    new_state = TrainState(
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        sketch=sketch,
        step=state.step + 1,
        failed_step=jnp.where(failed, state.step, state.failed_step),
    )
    tau = nnx.merge(graphdef, state.params).temperature()
    metrics |= {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
    metrics |= {"temperature": tau, "failed_step": new_state.failed_step}
    return new_state, metrics


def device_validation(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    objective: Objective | None = None,
) -> Metrics:
    """One device's part of the training loss of a batch that is not trained on."""
    loss, (_, metrics) = device_loss(
        config, graphdef, corpus, state.params, state, batch, tables, training=False, objective=objective
    )
    return metrics | {"loss": jax.lax.pmean(loss, AXIS)}


def make_train_step(
    config: Config,
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    corpus: int,
    parts: tuple[int, ...] = (),
    objective: Objective | None = None,
) -> Wrapped:
    """The jitted step over a mesh; the state's memory is reused (donated).

    Args:
        config: of the experiment.
        graphdef: structure of the model, from `state.create`.
        mesh: from `sharding.make_mesh`.
        corpus: random negatives are rows 0 : corpus of the catalogue.
        parts: positions that the parts of a sorted batch are computed at, see `training_loss.in_parts`.
        objective: chooses the pairs, see `training_loss`.

    Returns:
        step(state, batch, tables) -> (state, metrics): the batch split over the mesh, the item table as the
        config says, all else replicated.
    """
    function = partial(device_step, config, graphdef, corpus, objective=objective, parts=parts)
    return _map(function, mesh, config.training, donate=True)


def make_gradient(config: Config, graphdef: nnx.GraphDef, mesh: Mesh, corpus: int) -> Wrapped:
    """Like `make_train_step`, without an update: gradient(state, batch, tables) -> (loss, gradient)."""

    def function(state: TrainState, batch: Batch, tables: Tables) -> tuple[jax.Array, Any]:
        return device_gradient(config, graphdef, corpus, state, batch, tables)[:2]

    return _map(function, mesh, config.training, donate=False)


def compiler_options(config: TrainingConfig) -> dict[str, str | bool] | None:
    """Options for `jax.stages.Lowered.compile` of a train step; None: XLA's defaults."""
    if config.deterministic and jax.default_backend() == "gpu":
        return {"xla_gpu_deterministic_ops": True}
    return None


def make_validation_step(
    config: Config, graphdef: nnx.GraphDef, mesh: Mesh, corpus: int, objective: Objective | None = None
) -> Wrapped:
    """Like `make_train_step`, without an update: validate(state, batch, tables) -> metrics with the loss."""
    function = partial(device_validation, config, graphdef, corpus, objective=objective)
    return _map(function, mesh, config.training, donate=False)


def _map(function: Callable, mesh: Mesh, config: TrainingConfig, *, donate: bool) -> Wrapped:
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    specs: tuple[Any, ...] = (split if config.shard_items else whole, whole, whole, whole, whole)
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(whole, split, Tables(*specs)),
        out_specs=whole,
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,) if donate else ())
