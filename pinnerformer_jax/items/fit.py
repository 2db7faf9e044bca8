"""Training of PinSage, and the vectors of a whole catalogue.

Pairs are items that a training user engaged with one after the other. The loss is the sampled softmax with
logQ that the towers have (objective/loss.py): other pairs' second items and random items are the negatives,
and how often an item occurs in the pairs is counted, so log Q is exact. The alternative is the paper's
max-margin loss (margin.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from pinnerformer_jax.config import PinSageConfig, TrainingConfig
from pinnerformer_jax.data.shuffle import shuffled
from pinnerformer_jax.items.engagement import Pairs
from pinnerformer_jax.items.margin import draw_hard, max_margin
from pinnerformer_jax.items.pinsage import Convolution, ItemGraph, PinSage
from pinnerformer_jax.items.walks import Neighbours
from pinnerformer_jax.objective.loss import Rows, chunked_sampled_softmax
from pinnerformer_jax.objective.negatives import NO_USER, Pool
from pinnerformer_jax.training.optimiser import make_optimiser

CHUNK = 1 << 14
"""Items whose neighbourhoods are gathered at a time."""


State = tuple[Any, optax.OptState]
"""Parameters and their moments."""


class World(NamedTuple):
    """What stays the same from step to step, on the device."""

    graph: ItemGraph
    share: jax.Array  # float32 [N] of the pairs' second items, how many are this one
    corpus: jax.Array  # int32 [C]
    hard: jax.Array  # int32 [N, ranks]
    hard_visited: jax.Array  # bool [N, ranks]


def fit(
    graph: ItemGraph,
    pairs: Pairs,
    corpus: Int[np.ndarray, " c"],
    hard: Neighbours,
    outputs: int,
    config: PinSageConfig,
    report: Callable[[str], None] = print,
) -> PinSage:
    """Train a model.

    Args:
        graph: content and neighbours of the training period.
        pairs: co-engaged items, see `engagement.co_engaged`.
        corpus: items that random negatives are drawn from.
        hard: what the walks visit less often than the neighbours; used by the max-margin alone.
        outputs: D.
        config: of the training.
        report: called with the mean loss, ten times, if there is no terminal for a progress bar.

    Raises:
        ValueError: there is no pair.
    """
    first, second, _ = pairs
    if not len(first):
        raise ValueError(
            f"no user has two different positives within pinsage.window_days = {config.window_days:g}: "
            "raise it, or check data.positives"
        )
    share = jnp.asarray(np.bincount(second, minlength=len(graph.features)) / len(second), jnp.float32)
    world = World(graph, share, jnp.asarray(corpus), jnp.asarray(hard.item), jnp.asarray(hard.weight > 0))
    graphdef, state, step_of = make_step(world, outputs, config)
    losses: list[jax.Array] = []
    bar = tqdm(range(config.steps), desc="training", unit="step", leave=False, disable=None)
    for step in bar:
        places = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
        chosen = shuffled(places, len(first), config.seed)
        state, loss = step_of(state, np.int32(step), first[chosen], second[chosen], world)
        losses.append(loss)
        if (step + 1) % max(config.steps // 10, 1) == 0:
            mean, losses = np.mean(jax.device_get(losses)), []
            bar.set_postfix_str(f"loss {mean:.3f}")
            if bar.disable:
                report(f"step {step + 1}: loss {mean:.3f}")
    return nnx.merge(graphdef, state[0])


def make_step(
    world: World, outputs: int, config: PinSageConfig
) -> tuple[nnx.GraphDef, State, Callable[..., tuple[State, jax.Array]]]:
    """A new model, and the program that takes it a step further.

    Returns:
        The model's structure; its parameters and their moments; and (state, step, first [B], second [B],
        world) -> (state, loss), which uses up the old state.
    """
    model = PinSage(world.graph.features.shape[1], config.width, outputs, rngs=nnx.Rngs(config.seed))
    graphdef, params = nnx.split(model)
    optimiser = make_optimiser(TrainingConfig(steps=config.steps, learning_rate=config.learning_rate))
    step_of = jax.jit(partial(_step, graphdef, optimiser, config), donate_argnums=0)
    return graphdef, (params, optimiser.init(params)), step_of


def _step(
    graphdef: nnx.GraphDef,
    optimiser: optax.GradientTransformation,
    config: PinSageConfig,
    state: State,
    step: jax.Array,
    first: Int[Array, " b"],
    second: Int[Array, " b"],
    world: World,
) -> tuple[State, jax.Array]:
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    edge_key, draw_key = jax.random.split(key)
    isolated = jax.random.bernoulli(edge_key, config.isolated_share, world.share.shape)
    seen = without_edges(world.graph, isolated)

    def loss_of(params: Any) -> jax.Array:
        model: PinSage = nnx.merge(graphdef, params)
        loss = _max_margin if config.loss == "max_margin" else _sampled_softmax
        return loss(partial(model, seen), draw_key, step, first, second, world, config)

    params, moments = state
    loss, gradient = jax.value_and_grad(loss_of)(params)
    with jax.numpy_dtype_promotion("standard"):  # optax computes float ** int
        updates, moments = optimiser.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), moments), loss


def _sampled_softmax(
    embed: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    step: jax.Array,
    first: Int[Array, " b"],
    second: Int[Array, " b"],
    world: World,
    config: PinSageConfig,
) -> Float[Array, ""]:
    pairs, random = len(first), config.random_negatives
    item = jnp.concatenate([second, _random_items(key, world, random)])
    row = jnp.arange(pairs, dtype=jnp.int32)
    user = jnp.concatenate([row, jnp.full(random, NO_USER, jnp.int32)])
    pool = Pool(item, user, jnp.ones(item.shape, bool))
    log_q = jnp.log(pairs * world.share[item] + random / len(world.corpus))
    vectors = embed(jnp.concatenate([first, item]))
    query, candidates = vectors[:pairs], vectors[pairs:]
    return chunked_sampled_softmax(
        query,
        candidates[:pairs],
        candidates,
        jnp.asarray(config.temperature, jnp.float32),
        Rows(second, row, jnp.full(pairs, 1 / pairs), log_q[:pairs]),
        pool,
        log_q,
    )


def _max_margin(
    embed: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    step: jax.Array,
    first: Int[Array, " b"],
    second: Int[Array, " b"],
    world: World,
    config: PinSageConfig,
) -> Float[Array, ""]:
    random_key, hard_key = jax.random.split(key)
    random = _random_items(random_key, world, config.random_negatives)
    progress = step.astype(jnp.float32) / config.steps
    candidates, visited = world.hard[first], world.hard_visited[first]
    hard, counts = draw_hard(hard_key, progress, candidates, visited, config.hard_negatives)
    vectors = embed(jnp.concatenate([first, second, random, hard.reshape(-1)]))
    bounds = np.cumsum([len(first), len(second), len(random)])
    query, positive, shared, own = jnp.split(vectors, bounds)
    return max_margin(
        query,
        positive,
        shared,
        random[None, :] != second[:, None],
        own.reshape(*hard.shape, -1),
        counts & (hard != second[:, None]),
        config.margin,
    )


def _random_items(key: jax.Array, world: World, count: int) -> Int[Array, " n"]:
    return world.corpus[jax.random.randint(key, (count,), 0, len(world.corpus))]


def without_edges(graph: ItemGraph, isolated: Bool[Array, " n"]) -> ItemGraph:
    """The graph in which some items have no neighbours, though others may have them."""
    return graph._replace(weight=jnp.where(isolated[:, None], 0, graph.weight))


def embed_all(model: PinSage, graph: ItemGraph) -> Float[np.ndarray, "n d"]:
    """Vectors of every item, layer by layer, so that no representation is computed twice. The items need not
    be those of the training: one that came later needs content and, if it has any, neighbours.

    Returns:
        float32, unit rows; zero where an item has neither content nor neighbours.
    """
    hidden = _layer(model.inner, graph.features, graph, lambda rows: rows)
    vectors = np.asarray(_layer(model.outer, hidden, graph, model.head))
    known = np.asarray(graph.features).any(axis=1) | np.asarray(graph.weight).any(axis=1)
    return vectors * np.expand_dims(known, 1)


def _layer(
    convolution: Convolution,
    inputs: Float[Array, "n f"],
    graph: ItemGraph,
    finish: Callable[[jax.Array], jax.Array],
) -> Float[Array, "n h"]:
    """A convolution of all items, and what comes after it item by item, so many at a time."""
    messages = convolution.messages(inputs)
    chunks = [slice(k, k + CHUNK) for k in range(0, len(inputs), CHUNK)]
    parts = [
        finish(convolution(inputs[part], messages, graph.neighbour[part], graph.weight[part]))
        for part in tqdm(chunks, desc="embedding", unit="chunk", leave=False, disable=None)
    ]
    return jnp.concatenate(parts)
