"""PinSage (Ying, He, Chen, Eksombatchai, Hamilton, Leskovec: KDD 2018, arXiv 1806.01973), Algorithms 1 and 2.

M items of a batch, S distinct items that they need, T neighbours, F numbers of content, H width, D output.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pinnerformer_jax.model.layers import Linear, unit


class ItemGraph(NamedTuple):
    """What the model knows of N items, on the device."""

    features: jax.Array  # float32 [N, F]
    neighbour: jax.Array  # int32 [N, T]
    weight: jax.Array  # float32 [N, T], see walks.Neighbours


class Convolution(nnx.Module):
    """An item's own representation and the pooled messages of its neighbours -> its next one."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.message = Linear(inputs, width, rngs=rngs)  # Q, q
        self.combine = Linear(inputs + width, width, rngs=rngs)  # W, w

    def messages(self, inputs: Float[Array, "s f"]) -> Float[Array, "s h"]:
        """ReLU(Q h + q), computed once for each item, not once for each neighbour."""
        return jax.nn.relu(self.message(inputs))

    def __call__(
        self,
        own: Float[Array, "m f"],
        messages: Float[Array, "s h"],
        neighbour: Int[Array, "m t"],
        weight: Float[Array, "m t"],
    ) -> Float[Array, "m h"]:
        """Unit rows.

        Args:
            own: representations of the items.
            messages: of all that are neighbours of any.
            neighbour: rows of `messages`.
            weight: importances; all zero: the item has no neighbour.
        """
        pooled = importance_pooling(messages, neighbour, weight)
        return unit(jax.nn.relu(self.combine(jnp.concatenate([own, pooled], axis=1))))


def importance_pooling(
    messages: Float[Array, "s h"], neighbour: Int[Array, "m t"], weight: Float[Array, "m t"]
) -> Float[Array, "m h"]:
    """Weighted sums of the neighbours' messages (section 3.2). Neighbour by neighbour, so that [M, T, H]
    never exists: half the time for vectors of 100,000 items on a CPU (docs/items.md)."""

    def add(pooled: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        place, importance = one
        return pooled + importance[:, None] * messages[place], None

    nothing = jnp.zeros((len(neighbour), messages.shape[1]), messages.dtype)
    return jax.lax.scan(add, nothing, (neighbour.T, weight.T))[0]


class PinSage(nnx.Module):
    """Two convolutions and a final MLP."""

    def __init__(self, features: int, width: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.inner = Convolution(features, width, rngs=rngs)
        self.outer = Convolution(width, width, rngs=rngs)
        self.up = Linear(width, width, rngs=rngs)
        self.down = Linear(width, outputs, rngs=rngs)

    def __call__(self, graph: ItemGraph, items: Int[Array, " m"]) -> Float[Array, "m d"]:
        """Vectors of some items, unit rows. An item that several need is computed once."""
        near, (own, others) = _distinct(graph, items)
        far, (near_own, near_others) = _distinct(graph, near)
        messages = self.inner.messages(graph.features[far])
        hidden = self.inner(graph.features[far[near_own]], messages, near_others, graph.weight[near])
        messages = self.outer.messages(hidden)
        return self.head(self.outer(hidden[own], messages, others, graph.weight[items]))

    def head(self, hidden: Float[Array, "m h"]) -> Float[Array, "m d"]:
        """G2 ReLU(G1 h + g), and unit rows, as the catalogue has them."""
        return unit(self.down(jax.nn.relu(self.up(hidden))))


def _distinct(
    graph: ItemGraph, items: Int[Array, " m"]
) -> tuple[Int[Array, " s"], tuple[Int[Array, " m"], Int[Array, "m t"]]]:
    """The distinct items among some items and their neighbours, and the places of both in that list. Its
    length S is the largest possible; unused places repeat an item."""
    wanted = jnp.concatenate([items[:, None], graph.neighbour[items]], axis=1)  # [M, 1 + T]
    room = min(wanted.size, len(graph.features))
    distinct, place = jnp.unique(wanted, return_inverse=True, size=room)
    place = place.reshape(wanted.shape)
    return distinct, (place[:, 0], place[:, 1:])
