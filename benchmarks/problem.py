"""What `torch_rival` gives both sides (shapes, batch, draws, weights), and our step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from pinnerformer_jax.bench.correctness import named
from pinnerformer_jax.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.data.contracts import DAY, EPOCH, NO_TIME, Batch, Events
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.objective.loss import Rows, chunked_sampled_softmax
from pinnerformer_jax.objective.negatives import Pool
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.optimiser import make_optimiser
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import Tables, create
from pinnerformer_jax.training.step import make_train_step

Arrays = dict[str, np.ndarray]
Step = Callable[[], Any]  # dispatches one train step; its loss, a scalar

ACTIONS, SURFACES = 6, 4


class Size(NamedTuple):
    """Shapes of the model, the batch and the negatives."""

    layers: int
    width: int
    heads: int
    length: int
    users: int
    positions: int
    in_batch: int
    random: int
    item_dim: int
    output_dim: int
    catalogue: int = 50_000

    def of_data(self) -> Sizes:
        """What the data decides."""
        return Sizes(self.item_dim, ACTIONS, SURFACES)


SIZES = {
    "tiny": Size(2, 32, 4, 20, 6, 5, 16, 24, 12, 16, 60),
    "small": Size(2, 128, 4, 128, 64, 32, 1024, 1024, 128, 128),
    "medium": Size(4, 256, 8, 256, 32, 32, 1024, 3072, 256, 256),
    "paper": Size(6, 768, 8, 256, 512, 32, 5000, 8192, 256, 256),
}


def make_problem(size: Size, seed: int = 0) -> Arrays:
    """A batch with its draws: histories half to wholly full, a twentieth of the pairs not valid.

    Returns:
        item, action, surface, time, duration [B, T]; length [B]; position [B, P]; target, target_user,
        weight, target_log_q [B * P]; pool_item, pool_user, pool_valid, pool_log_q [N]; item_features [C, D].
    """
    rng = np.random.default_rng(seed)
    users, length_max, pairs = size.users, size.length, size.users * size.positions
    length = rng.integers(length_max // 2, length_max + 1, users).astype(np.int32)
    real = np.arange(length_max)[None, :] < length[:, None]
    time_of = np.sort(rng.integers(0, 60 * DAY, (users, length_max)), axis=1) + 1_790_000_000 - EPOCH
    features = rng.normal(size=(size.catalogue, size.item_dim)).astype(np.float32)
    position = np.stack([rng.choice(n, size.positions, replace=size.positions > n) for n in length])
    target = rng.integers(0, size.catalogue, pairs).astype(np.int32)
    target_user = np.repeat(np.arange(users, dtype=np.int32), size.positions)
    valid = rng.random(pairs) > 0.05
    in_batch = rng.permutation(pairs)[: size.in_batch]
    return {
        "item": np.where(real, rng.integers(0, size.catalogue, real.shape), 0).astype(np.int32),
        "action": np.where(real, rng.integers(0, ACTIONS, real.shape), 0).astype(np.uint8),
        "surface": np.where(real, rng.integers(0, SURFACES, real.shape), 0).astype(np.uint8),
        "time": np.where(real, time_of, NO_TIME).astype(np.int32),
        "duration": np.where(real, rng.integers(0, 60, real.shape), 0).astype(np.float32),
        "length": length,
        "position": position.astype(np.int32),
        "target": target,
        "target_user": target_user,
        "weight": (valid / valid.sum()).astype(np.float32),
        "target_log_q": rng.normal(-3, 1, pairs).astype(np.float32),
        "pool_item": np.concatenate([target[in_batch], rng.integers(0, size.catalogue, size.random)]).astype(
            np.int32
        ),
        "pool_user": np.concatenate([target_user[in_batch], np.full(size.random, -1)]).astype(np.int32),
        "pool_valid": np.concatenate([valid[in_batch], np.ones(size.random, bool)]),
        "pool_log_q": rng.normal(-3, 1, len(in_batch) + size.random).astype(np.float32),
        "item_features": features / np.linalg.norm(features, axis=1, keepdims=True),
    }


def make_config(size: Size, dtype: str) -> Config:
    """Our config of these shapes, at a constant learning rate."""
    return Config(
        model=ModelConfig(
            layers=size.layers, width=size.width, heads=size.heads, max_length=size.length,
            output_dim=size.output_dim, item_hidden=size.width, compute_dtype=dtype,
            aligned_start=False,  # which zeroes the FFN, so that half of its gradients could not differ
        ),
        objective=ObjectiveConfig(
            positions=size.positions, random_negatives=size.random, in_batch_negatives=size.in_batch
        ),
        training=TrainingConfig(batch_size=size.users, steps=10_000_000, warmup_share=0.0),
    )  # fmt: skip


def make_params(config: Config, size: Size, seed: int = 0) -> tuple[nnx.GraphDef, Any]:
    """(structure, parameters) of our model, moved off their start, as zero biases hide mistakes."""
    graphdef, params = PinnerFormer(config, size.of_data()).split()
    rng = np.random.default_rng(seed)
    moved = jax.tree.map(
        lambda leaf: np.asarray(leaf) + rng.normal(0, 0.02, leaf.shape).astype(np.float32),
        params,
    )
    return graphdef, moved


def our_loss(graphdef: nnx.GraphDef, params: Any, inputs: Mapping[str, Any], *, pruned: bool) -> jax.Array:
    """The loss of training/step.py with its draws given."""
    inputs = jax.tree.map(jnp.asarray, dict(inputs))
    model = nnx.merge(graphdef, params)
    history = Events(*(inputs[name] for name in Events._fields))
    position, features = inputs["position"], inputs["item_features"]
    tower = model.user
    if not pruned:  # the last block everywhere, then what `UserTower` does with the chosen positions
        last = tower.blocks[-1]
        last.chosen = lambda stream, position, dropout: jnp.take_along_axis(
            last(stream, dropout), position[:, :, None], axis=1
        )
    embedding = tower(history, inputs["length"], position, features)
    return chunked_sampled_softmax(
        embedding.reshape(-1, embedding.shape[-1]),
        model.embed_items(features[inputs["target"]]),
        model.embed_items(features[inputs["pool_item"]]),
        model.temperature(),
        Rows(*(inputs[n] for n in ("target", "target_user", "weight", "target_log_q"))),
        Pool(*(inputs[n] for n in ("pool_item", "pool_user", "pool_valid"))),
        inputs["pool_log_q"],
    )


def our_gradients(
    graphdef: nnx.GraphDef, params: Any, inputs: Arrays, *, pruned: bool
) -> tuple[float, Arrays]:
    """(loss, gradients by name), the reference of the check."""
    loss_of = partial(our_loss, graphdef, pruned=pruned)
    # The inputs are arguments: as constants XLA would compute with them while it compiles.
    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params, inputs)
    return float(loss), named(gradient)


def our_step(config: Config, graphdef: nnx.GraphDef, params: Any, inputs: Arrays, *, pruned: bool) -> Step:
    """Loss, gradient, clipping and AdamW on given draws, the state donated."""
    optimiser = make_optimiser(config.training)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, opt_state: Any, inputs: Any) -> tuple:
        loss_of = partial(our_loss, graphdef, inputs=inputs, pruned=pruned)
        loss, gradient = jax.value_and_grad(loss_of)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimiser.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    on_device = jax.device_put(inputs)
    state = [jax.device_put(params), jax.jit(optimiser.init)(params)]

    def run() -> jax.Array:
        state[0], state[1], loss = step(*state, on_device)
        return loss

    return run


def our_whole_step(config: Config, graphdef: nnx.GraphDef, size: Size, inputs: Arrays) -> Step:
    """The step of train.py on the same histories, drawing for itself; the weights are fresh."""
    mesh = make_mesh(1)
    step = make_train_step(config, graphdef, mesh, corpus=size.catalogue)
    history = Events(*(inputs[name] for name in Events._fields))
    last = history.time[np.arange(size.users), inputs["length"] - 1]
    later = np.arange(1, size.length + 1)[None, :] * (14 * DAY // size.length)
    future = Events(*(np.flip(values, axis=0) for values in history))._replace(
        time=(last[:, None] + later).astype(np.int32)
    )
    counts, users = np.full(size.users, size.length, np.int32), np.arange(size.users, dtype=np.int32)
    batch = Batch(history, inputs["length"], future, counts, users)
    positive_table = np.zeros((ACTIONS, SURFACES), np.float32)
    tables = Tables(ItemTable(inputs["item_features"]), positive_table, np.uint32(0))
    state = [replicate(mesh, jax.jit(lambda: create(config, size.of_data())[1])())]
    batch, tables = shard_batch(mesh, batch), replicate(mesh, tables)

    def run() -> jax.Array:
        state[0], metrics = step(state[0], batch, tables)
        return metrics["loss"]

    return run
