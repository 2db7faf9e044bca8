"""The loss of one train step, whole: pairs, negatives, frequency sketch, logQ, user weights and loss, in the
order that makes them right.

B users of the global batch, N devices, T actions, P pairs a user, D numbers of an embedding.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pinnerformer_jax.config import Config, ObjectiveConfig
from pinnerformer_jax.data.contracts import Batch, part_bounds
from pinnerformer_jax.data.popularity import PopularityOverTime
from pinnerformer_jax.data.text_map import vectors_from_text
from pinnerformer_jax.model.identity import hidden_items
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import UserTower
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.objective.bce import binary_cross_entropy, random_negatives
from pinnerformer_jax.objective.loss import Rows, chunked_sampled_softmax, user_weights
from pinnerformer_jax.objective.negatives import Pool, log_q, mixed_pool
from pinnerformer_jax.objective.targets import Objective, check_targets, configured_objective, user_keys
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.sharding import collect, device_count, shard_rows, total
from pinnerformer_jax.training.state import Tables

Metrics = dict[str, Any]
"""Scalars on the device, float32 or int32, by name."""


def training_loss(
    model: PinnerFormer,
    config: Config,
    batch: Batch,
    tables: Tables,
    sketch: frequency.Sketch,
    key: jax.Array,
    *,
    corpus: int,
    training: bool,
    objective: Objective | None = None,
    parts: tuple[int, ...] = (),
) -> tuple[jax.Array, tuple[frequency.Sketch, Metrics]]:
    """Loss of a batch (paper, sections "objectives" and "loss"), for `jax.value_and_grad(..., has_aux=True)`.

    Draws the pairs, counts their positives in the sketch, draws the negatives, embeds, corrects by log Q and
    weighs every user the same. The train step of `fit` is this function, its gradient and an optimiser:

        def loss_of(params):
            return training_loss(nnx.merge(graphdef, params), config, batch, tables, sketch, key,
                                 corpus=catalog.trained, training=True)
        (loss, (sketch, metrics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)

    It runs on one device, jitted or not; or inside `jax.shard_map(..., check_vma=False)` or `jax.pmap` over
    an axis named "data", on this device's rows (`sharding.shard_batch` deals them out). There the loss and
    its gradient are local: take `jax.lax.pmean` of both over "data", AFTER the gradient. In-batch negatives,
    sketch and metrics are of the global batch already. What is drawn does not depend on the number of
    devices; dropout with `parts` does.

    Args:
        model: whose parameters the gradient is taken of.
        config: of the experiment. Read is its `objective` section.
        batch: this device's rows of the batch, [B / N, ...], see `Windows.batch`.
        tables: item vectors and rules of positives, see `open_training_data`.
        sketch: frequencies of the positives of the steps before; at first
            `empty_sketch(config.objective, catalog.items)`.
        key: of this step, a new one each step, the same on every device.
        corpus: random negatives are rows 0 : corpus of the catalogue; `Catalog.trained`.
        training: True: dropout acts, if the config has any. False: for validation.
        objective: chooses the pairs instead of the function that `config.objective.name` names, see
            `objective.targets.Objective`. `config.objective` still decides negatives and loss.
        parts: positions that each part of a batch sorted by length is computed at, see `in_parts`; (): all T.

    Returns:
        The loss, float32 []; and (the sketch for the next step; metrics, float32 or int32 [] each: users with
        a pair, pairs, tokens, negatives). A batch without a pair has loss 0.

    Raises:
        ValueError: what `objective` returns are no `Targets` of these rows.
    """
    settings = config.objective
    row = shard_rows(batch.length.shape[0])
    target_key, pool_key, dropout_key = jax.random.split(key, 3)

    with jax.named_scope("targets"):
        choose = objective or configured_objective(settings)
        targets = choose(user_keys(target_key, row), batch, tables.positive_table)
        check_targets(targets, batch)
    owner = jnp.broadcast_to(batch.user[:, None], targets.item.shape)
    local = targets.item, owner, targets.valid  # [B / N, P]
    positives = _flat(*map(collect, local))  # [B * P]
    item, user, valid = _flat(*local)
    with jax.named_scope("negatives"):
        sketch = frequency.update(sketch, positives[0], positives[2], decay=settings.sketch_decay)

    counts = jnp.stack([jnp.sum(jnp.any(targets.valid, axis=1)), jnp.sum(valid), jnp.sum(batch.length)])
    with_pairs, pairs, tokens = total(counts)
    weights = user_weights(targets.weight, with_pairs).reshape(-1) * device_count()

    keys = user_keys(dropout_key, row) if training else None
    hidden = jax.random.fold_in(dropout_key, 1) if training else None  # items, the same on every device

    def embed_items(features: jax.Array, ids: jax.Array) -> jax.Array:
        if hidden is not None and tables.text_map is not None:
            features = some_as_new(features, ids, hidden, settings.new_item_share, tables.text_map)
        return model.embed_items(features, ids, hidden)

    embedding = in_parts(model.user, parts, batch, targets.position, tables.item_features, keys, hidden)
    embedding = embedding.reshape(item.shape[0], -1)
    positive, tau = embed_items(tables.item_features[item], item), model.temperature()
    if settings.loss == "binary_cross_entropy":
        negative, counted = random_negatives(user_keys(pool_key, row), batch, targets, corpus=corpus)
        negative, counted = negative.reshape(-1), counted.reshape(-1)
        negatives = total(jnp.sum(counted & valid))
        against = embed_items(tables.item_features[negative], negative)
        loss = binary_cross_entropy(embedding, positive, against, tau, weights, counted)
    else:
        rows = Rows(item, user, weights, jnp.zeros(item.shape))
        with jax.named_scope("negatives"):
            contrasts = draw_contrasts(settings, pool_key, rows, positives, sketch, corpus)
            if tables.popularity is not None:
                time = jnp.take_along_axis(batch.history.time, targets.position, axis=1).reshape(-1)
                contrasts = [with_popularity(tables.popularity, time, contrast) for contrast in contrasts]
        negatives = sum(jnp.sum(contrast.pool.valid) for contrast in contrasts)
        losses = []
        for rows, pool, pool_log_q in contrasts:
            against = embed_items(tables.item_features.common(pool.item), pool.item)
            with jax.named_scope("loss"):
                losses.append(
                    chunked_sampled_softmax(embedding, positive, against, tau, rows, pool, pool_log_q)
                )
        loss = sum(losses[1:], losses[0])
    metrics = {"users": with_pairs, "pairs": pairs, "tokens": tokens, "negatives": negatives}
    return loss, (sketch, metrics)


def some_as_new(
    features: Float[Array, "n d"], ids: Int[Array, " n"], key: jax.Array, share: float, text_map: jax.Array
) -> Float[Array, "n d"]:
    """The items' vectors, but for a share of the items the one that their text alone gives, which is all that
    is known of an item that came after the training.

    Args:
        features: built vectors, the half of text behind the half of co-occurrence.
        ids: the items' numbers.
        key: of the step: it decides which items these are, wherever they occur.
        share: of all items.
        text_map: see `vectors_from_text`.
    """
    features = features.astype(jnp.float32)
    text = features[:, text_map.shape[1] :]
    norm = jnp.linalg.norm(text, axis=1, keepdims=True)
    there = norm > 0.0
    new = vectors_from_text(text / jnp.where(there, norm, 1.0), text_map)
    return jnp.where(there & hidden_items(ids, key, share)[:, None], new, features)


def _flat(item: jax.Array, user: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return item.reshape(-1), user.reshape(-1), valid.reshape(-1)


class Contrast(NamedTuple):
    """One softmax: the pairs, their negatives, and log Q of each."""

    rows: Rows
    pool: Pool
    pool_log_q: jax.Array  # [N]; with popularity [M, N]


def with_popularity(popularity: PopularityOverTime, time: Int[Array, " r"], contrast: Contrast) -> Contrast:
    """The softmax with log Q less the log of each item's popularity at the pair's time. So popularity is
    added to the logits, as priors add it to the served score (our choice; logit adjustment, Menon et al.
    2021).

    With log Q alone the vectors learn how popular items were on average over the training period. Where that
    is not what is popular now, no prior can take it back.

    Args:
        popularity: of all items at M moments.
        time: of the events after which the positives come, int32 device time.
        contrast: without a moment.
    """
    rows, pool, pool_log_q = contrast
    moment = popularity.moment(time)
    log_q = rows.log_q - popularity.log_share[moment, rows.item]
    at_moments = pool_log_q[None, :] - popularity.log_share[:, pool.item]  # [M, N]
    return Contrast(rows._replace(log_q=log_q, moment=moment), pool, at_moments)


def draw_contrasts(
    objective: ObjectiveConfig,
    key: jax.Array,
    rows: Rows,
    positives: tuple[jax.Array, jax.Array, jax.Array],
    sketch: frequency.Sketch,
    corpus: int,
) -> list[Contrast]:
    """The softmaxes whose losses are summed: one over the merged pool, or one for each kind of negatives.

    Args:
        objective: sizes of the pool, and what is corrected.
        key: of the step; the same on every device.
        rows: this device's pairs, without log Q.
        positives: item, user and valid of the pairs of all devices, [B * P] each.
        sketch: frequencies of the positives.
        corpus: random negatives are rows 0 : corpus of the catalogue.
    """
    kinds = [(objective.in_batch_negatives, objective.random_negatives)]
    if objective.pool == "separate":
        kinds = [(objective.in_batch_negatives, 0), (0, objective.random_negatives)]
    # With Q the expected count, the denominator estimates the full softmax's sum over the other items. The
    # positive is in it with certainty and needs no correction. The gradient of that is the refined loss's.
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
    identity_key: jax.Array | None,
) -> jax.Array:
    """Embeddings float32 [B, P, D] of rows that are sorted by length, longest first. The rows are cut into
    equal parts, and each part is computed at a shorter T. Without dropout, loss and gradient stay the same.
    Dropout masks have the parts' shapes, which also depend on the number of devices.

    Args:
        tower: of users.
        parts: positions that each part is computed at; no user of the part may have more. (): all T, in one
            part.
        batch: the rows.
        position: int32 [B, P], see `UserTower`.
        item_features: the catalogue's vectors.
        dropout_keys: [B], in training.
        identity_key: of the step, in training.
    """
    if not parts:
        return tower(batch.history, batch.length, position, item_features, dropout_keys, identity_key)
    bounds = part_bounds(batch.length.shape[0], len(parts))
    embeddings = []
    for low, high, length in zip(bounds, bounds[1:], parts, strict=False):
        history = jax.tree.map(lambda values, a=low, b=high, t=length: values[a:b, :t], batch.history)
        keys = None if dropout_keys is None else dropout_keys[low:high]
        rows = history, batch.length[low:high], position[low:high]
        embeddings.append(tower(*rows, item_features, keys, identity_key))
    return jnp.concatenate(embeddings)
