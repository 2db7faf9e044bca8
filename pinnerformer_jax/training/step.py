"""The train step: one per-device function with explicit collectives, mapped over the mesh.

Sampling, towers, loss, gradient and update are one program; only integers and durations come from
the host. The function takes the gradient of the LOCAL loss and then `pmean`s it: that is right under
`jax.pmap` and under `shard_map(check_vma=False)`, and too large by the number of devices under
`check_vma=True`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from pinnerformer_jax.config import Config, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.data.contracts import DAY, Batch, part_bounds
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import UserTower
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.objective.bce import binary_cross_entropy, random_negatives
from pinnerformer_jax.objective.loss import Rows, chunked_sampled_softmax, user_weights
from pinnerformer_jax.objective.negatives import Pool, log_q, mixed_pool
from pinnerformer_jax.objective.targets import (
    Targets,
    all_action,
    dense_all_action,
    next_action,
    sasrec,
    user_keys,
)
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.optimiser import learning_rate, make_optimiser
from pinnerformer_jax.training.sharding import AXIS, collect, dealt_rows
from pinnerformer_jax.training.state import Tables, TrainState

Metrics = dict[str, jax.Array]
LossOfParams = Callable[..., jax.Array]


def device_loss(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    parts: tuple[int, ...] = (),
) -> tuple[LossOfParams, frequency.Sketch, Metrics]:
    """Draw one device's pairs and negatives; what is left is a function of the parameters alone.

    Runs inside a map over the axis "data"; `parts` as in `in_parts`. What is drawn depends on (seed, step)
    and on a user's row in the global batch, not on the number of devices.

    Returns:
        The local loss, loss(params, training=bool), whose mean over devices is the loss of the global
        batch (dropout acts in training only); the sketch with this step's positives counted; and metrics,
        of the global batch.
    """
    objective = config.objective
    row = dealt_rows(batch.length.shape[0])
    step_key = jax.random.fold_in(jax.random.key(tables.seed), state.step)
    target_key, pool_key, dropout_key = jax.random.split(step_key, 3)

    with jax.named_scope("targets"):
        targets = draw_targets(objective, user_keys(target_key, row), batch, tables.positive_table)
    owner = jnp.broadcast_to(batch.user[:, None], targets.item.shape)
    local = targets.item, owner, targets.valid  # [B / N, P]
    positives = tuple(collect(values).reshape(-1) for values in local)  # [B * P]
    item, user, valid = (values.reshape(-1) for values in local)
    with jax.named_scope("negatives"):
        sketch = frequency.update(state.sketch, positives[0], positives[2], decay=objective.sketch_decay)

    counts = jnp.stack([jnp.sum(jnp.any(targets.valid, axis=1)), jnp.sum(valid), jnp.sum(batch.length)])
    with_pairs, pairs, tokens = jax.lax.psum(counts, AXIS)
    weights = user_weights(targets.weight, with_pairs).reshape(-1) * jax.lax.axis_size(AXIS)

    if objective.loss == "binary_cross_entropy":
        negative, counted = random_negatives(user_keys(pool_key, row), batch, targets, corpus=corpus)
        negative, counted = negative.reshape(-1), counted.reshape(-1)
        negatives = jax.lax.psum(jnp.sum(counted & valid), AXIS)
    else:
        rows = Rows(item, user, weights, jnp.zeros(item.shape))
        with jax.named_scope("negatives"):
            contrasts = draw_contrasts(objective, pool_key, rows, positives, sketch, corpus)
        negatives = sum(jnp.sum(contrast.pool.valid) for contrast in contrasts)

    def loss_of(params: Any, *, training: bool) -> jax.Array:
        model: PinnerFormer = nnx.merge(graphdef, params)
        keys = user_keys(dropout_key, row) if training else None
        embedding = in_parts(model.user, parts, batch, targets.position, tables.item_features, keys)
        embedding = embedding.reshape(item.shape[0], -1)
        positive, tau = model.embed_items(tables.item_features[item]), model.temperature()
        if objective.loss == "binary_cross_entropy":
            against = model.embed_items(tables.item_features[negative])
            return binary_cross_entropy(embedding, positive, against, tau, weights, counted)
        losses = []
        for rows, pool, pool_log_q in contrasts:
            against = model.embed_items(tables.item_features.common(pool.item))
            with jax.named_scope("loss"):
                losses.append(
                    chunked_sampled_softmax(embedding, positive, against, tau, rows, pool, pool_log_q)
                )
        return sum(losses[1:], losses[0])

    metrics = {"users": with_pairs, "pairs": pairs, "tokens": tokens, "negatives": negatives}
    return loss_of, sketch, metrics


def draw_targets(
    objective: ObjectiveConfig, keys: jax.Array, batch: Batch, positive_table: jax.Array
) -> Targets:
    """The pairs of the objective that the config names; keys [B], one a user."""
    horizon = round(objective.horizon_days * DAY)
    match objective.name:
        case "dense_all_action":
            return dense_all_action(
                keys, batch, positive_table, horizon=horizon, positions=objective.positions
            )
        case "all_action":
            return all_action(keys, batch, positive_table, horizon=horizon, positives=objective.positions)
        case "next_action":
            return next_action(batch, positive_table, horizon=horizon)
        case "sasrec":
            return sasrec(batch, positive_table, horizon=horizon, newest_weighs_half=True)
        case "sasrec_plain":
            return sasrec(batch, positive_table, horizon=horizon, newest_weighs_half=False)


class Contrast(NamedTuple):
    """One softmax: the pairs, their negatives, and log Q of each."""

    rows: Rows
    pool: Pool
    pool_log_q: jax.Array


def draw_contrasts(
    objective: ObjectiveConfig,
    key: jax.Array,
    rows: Rows,
    positives: tuple[jax.Array, jax.Array, jax.Array],
    sketch: frequency.Sketch,
    corpus: int,
) -> list[Contrast]:
    """The softmaxes whose losses are summed: one over the merged pool, or one a kind of negatives.

    Args:
        objective: sizes, and what is corrected.
        key: the step's; the same on every device.
        rows: this device's pairs, without log Q.
        positives: item, user and valid, over all devices.
        sketch: frequency of the positives.
        corpus: random negatives are rows 0 : corpus of the catalogue.
    """
    kinds = [(objective.in_batch_negatives, objective.random_negatives)]
    if objective.pool == "separate":
        kinds = [(objective.in_batch_negatives, 0), (0, objective.random_negatives)]
    # With Q the expected count, the denominator estimates the full softmax's sum over the other items; the
    # positive, in it with certainty, then stands as it is. The gradient of that is the refined loss's.
    corrects_positive = objective.logq and not objective.refined_logq
    contrasts = []
    for in_batch, random in kinds:
        pool = mixed_pool(key, *positives, in_batch=in_batch, random=random, corpus=corpus)
        correction = partial(log_q, sketch, pool=pool, random=random, corpus=corpus)
        contrasts.append(
            Contrast(
                rows._replace(log_q=correction(rows.item)) if corrects_positive else rows,
                pool,
                correction(pool.item) if objective.logq else jnp.zeros(pool.item.shape),
            )
        )
    return contrasts


def in_parts(
    tower: UserTower,
    parts: tuple[int, ...],
    batch: Batch,
    position: jax.Array,
    item_features: ItemTable,
    dropout_keys: jax.Array | None,
) -> jax.Array:
    """Embeddings [B, P, D] of rows sorted by length, longest first: cut into equal parts, each computed
    only as long as `parts` says. Users, pairs and negatives stay the same, and so do loss and gradient
    without dropout; its masks have the parts' shapes, which depend on the number of devices too.

    Args:
        parts: positions each part is computed at; no user may be longer. (): all T, in one part.
    """
    if not parts:
        return tower(batch.history, batch.length, position, item_features, dropout_keys)
    bounds = part_bounds(batch.length.shape[0], len(parts))
    embeddings = []
    for low, high, length in zip(bounds, bounds[1:], parts, strict=False):
        history = jax.tree.map(lambda values, a=low, b=high, t=length: values[a:b, :t], batch.history)
        keys = None if dropout_keys is None else dropout_keys[low:high]
        embeddings.append(tower(history, batch.length[low:high], position[low:high], item_features, keys))
    return jnp.concatenate(embeddings)


def device_gradient(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    parts: tuple[int, ...] = (),
) -> tuple[jax.Array, Any, frequency.Sketch, Metrics]:
    """The loss of the global batch and its gradient, and what else `device_loss` gives."""
    loss_of, sketch, metrics = device_loss(config, graphdef, corpus, state, batch, tables, parts)
    loss, gradient = jax.lax.pmean(jax.value_and_grad(partial(loss_of, training=True))(state.params), AXIS)
    return loss, gradient, sketch, metrics


def device_step(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
    parts: tuple[int, ...] = (),
) -> tuple[TrainState, Metrics]:
    """One device's part of a train step."""
    loss, gradient, sketch, metrics = device_gradient(config, graphdef, corpus, state, batch, tables, parts)
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
    metrics |= {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
    tau = nnx.merge(graphdef, state.params).temperature()
    metrics |= {"temperature": tau, "failed_step": new_state.failed_step}
    return new_state, metrics


def device_validation(
    config: Config,
    graphdef: nnx.GraphDef,
    corpus: int,
    state: TrainState,
    batch: Batch,
    tables: Tables,
) -> Metrics:
    """One device's part of the training loss of a batch that is not trained on."""
    loss_of, _, metrics = device_loss(config, graphdef, corpus, state, batch, tables)
    return metrics | {"loss": jax.lax.pmean(loss_of(state.params, training=False), AXIS)}


def make_train_step(
    config: Config, graphdef: nnx.GraphDef, mesh: Mesh, corpus: int, parts: tuple[int, ...] = ()
) -> Callable[[TrainState, Batch, Tables], tuple[TrainState, Metrics]]:
    """The jitted step over a mesh; the state's memory is reused (donated).

    Args:
        config: of the experiment.
        graphdef: structure of the model, from `state.create`.
        mesh: from `sharding.make_mesh`.
        corpus: random negatives are rows 0 : corpus of the catalogue.
        parts: lengths that the parts of a sorted batch are computed at, see `in_parts`.

    Returns:
        step(state, batch, tables) -> (state, metrics): the batch split over the mesh, the item table as the
        config says, all else replicated.
    """
    function = partial(device_step, config, graphdef, corpus, parts=parts)
    return _map(function, mesh, config.training, donate=True)


def make_gradient(
    config: Config, graphdef: nnx.GraphDef, mesh: Mesh, corpus: int
) -> Callable[[TrainState, Batch, Tables], tuple[jax.Array, Any]]:
    """Like `make_train_step`, without an update: gradient(state, batch, tables) -> (loss, gradient)."""

    def function(state: TrainState, batch: Batch, tables: Tables) -> tuple[jax.Array, Any]:
        return device_gradient(config, graphdef, corpus, state, batch, tables)[:2]

    return _map(function, mesh, config.training, donate=False)


def compiler_options(config: TrainingConfig) -> dict[str, bool] | None:
    """What `jax.stages.Lowered.compile` is told for a train step."""
    if config.deterministic and jax.default_backend() == "gpu":
        return {"xla_gpu_deterministic_ops": True}
    return None


def make_validation_step(
    config: Config, graphdef: nnx.GraphDef, mesh: Mesh, corpus: int
) -> Callable[[TrainState, Batch, Tables], Metrics]:
    """Like `make_train_step`, without an update: loss(state, batch, tables) -> metrics."""
    return _map(partial(device_validation, config, graphdef, corpus), mesh, config.training, donate=False)


def _map(function: Callable, mesh: Mesh, config: TrainingConfig, *, donate: bool) -> Callable:
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    tables = Tables(split if config.shard_items else whole, positive_table=whole, seed=whole)
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(whole, split, tables),
        out_specs=whole,
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=(0,) if donate else ())
