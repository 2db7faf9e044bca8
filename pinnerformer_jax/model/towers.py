"""The two towers (paper, "model"): f, actions -> user embedding, and g, item features -> item embedding.

B users, T actions, P chosen positions, H width, D output. Parameters, norms, softmax and the final
normalisation are float32; matmuls run in the config's compute dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pinnerformer_jax.config import ModelConfig
from pinnerformer_jax.data.contracts import Events
from pinnerformer_jax.model.attention import causal_attention, chosen_attention
from pinnerformer_jax.model.features import ActionEncoder, ItemVectors, look_up
from pinnerformer_jax.model.identity import CopyHead
from pinnerformer_jax.model.layers import MLP, Dropout, Linear, unit


class Sizes(NamedTuple):
    """Sizes that the data decide, not the config; `open_training_data` gives them."""

    item_dim: int  # length of an item's feature vector
    actions: int  # vocabularies, the unknown included
    surfaces: int
    identities: int = 0  # items 0 : identities have an identity (model/identity.py)
    items: int = 0  # of the catalogue, each counted as a positive (objective/frequency.py); 0: not known


class Block(nnx.Module):
    """Pre-norm causal self-attention, then pre-norm FFN (4H), each added to the stream [B, T, H]."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width, dtype = config.width, jnp.dtype(config.compute_dtype)
        self.heads, self.attention, self.dtype = config.heads, config.attention, dtype
        self.attention_norm = nnx.LayerNorm(width, dtype=jnp.float32, rngs=rngs)
        # Three products: one product would have to be split, and its gradient concatenated, which a GPU does
        # by copying. A bias of the keys would cancel in the softmax.
        self.query = Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)
        self.ffn_norm = nnx.LayerNorm(width, dtype=jnp.float32, rngs=rngs)
        self.ffn = MLP(width, 4 * width, width, dtype, rngs=rngs)

    def __call__(self, stream: Float[Array, "b t h"], dropout: Dropout) -> Float[Array, "b t h"]:
        """All positions."""
        normed = self._normed(self.attention_norm, stream)
        with jax.named_scope("projections"):
            query, key, value = self.query(normed), self.key(normed), self.value(normed)
        with jax.named_scope("attention"):
            heads = self._heads(query), self._heads(key), self._heads(value)
            mixed = causal_attention(*heads, self.attention)
        return self._finish(stream, mixed, dropout)

    def chosen(
        self, stream: Float[Array, "b t h"], position: Int[Array, "b p"], dropout: Dropout
    ) -> Float[Array, "b p h"]:
        """Only the given positions, equal to the same rows of `__call__`. Keys and values are computed at all
        positions; queries, output projection and FFN at the given ones only."""
        normed = self._normed(self.attention_norm, stream)
        there = jnp.take_along_axis(normed, position[:, :, None], axis=1)
        with jax.named_scope("projections"):
            query, key, value = self.query(there), self.key(normed), self.value(normed)
        with jax.named_scope("attention"):
            mixed = chosen_attention(self._heads(query), self._heads(key), self._heads(value), position)
        return self._finish(jnp.take_along_axis(stream, position[:, :, None], axis=1), mixed, dropout)

    def _heads(self, part: Float[Array, "b q h"]) -> Float[Array, "b q n d"]:
        return part.reshape(*part.shape[:2], self.heads, -1)

    def _finish(
        self, stream: Float[Array, "b q h"], mixed: Float[Array, "b q n d"], dropout: Dropout
    ) -> Float[Array, "b q h"]:
        with jax.named_scope("projections"):
            stream = stream + dropout(self.out(mixed.reshape(stream.shape)))
        normed = self._normed(self.ffn_norm, stream)
        with jax.named_scope("feed_forward"):
            return stream + dropout(self.ffn(normed))

    def _normed(self, norm: nnx.LayerNorm, stream: Float[Array, "b q h"]) -> Float[Array, "b q h"]:
        with jax.named_scope("norm"):
            return norm(stream).astype(self.dtype)


class UserTower(nnx.Module):
    """Actions -> unit embeddings of the chosen positions."""

    def __init__(self, config: ModelConfig, sizes: Sizes, *, rngs: nnx.Rngs) -> None:
        self.dtype, self.strictly_causal = jnp.dtype(config.compute_dtype), config.strictly_causal
        self.dropout = config.dropout
        self.encoder = ActionEncoder(config, sizes.item_dim, sizes.actions, sizes.surfaces, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.positions = "position" not in config.drop_features
        if self.positions:
            shape = (config.max_length, config.width)
            self.position_table = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, dtype=jnp.float32, rngs=rngs)
        content = config.output_dim - config.identity_dim
        self.head = MLP(config.width, 2 * config.width, content, self.dtype, rngs=rngs)
        self.copy = CopyHead(config, sizes.identities, rngs=rngs) if config.identity_dim else None

    def __call__(
        self,
        events: Events,
        length: Int[Array, " b"],
        position: Int[Array, "b p"],
        item_features: ItemVectors,
        dropout_keys: jax.Array | None = None,
        identity_key: jax.Array | None = None,
    ) -> Float[Array, "b p o"]:
        """Embeddings of the chosen positions. The one that is served is position `length - 1`.

        Args:
            events: histories [B, T], oldest first, padding at the tail.
            length: int32 [B], real events of each.
            position: int32 [B, P], indices into T; at or past `length` the result has no meaning.
            item_features: the catalogue's vectors, unit rows.
            dropout_keys: a random key for each user, [B], in training; None: no dropout.
            identity_key: of the step, in training: the identities of some items are hidden; None: none are.

        Returns:
            float32 [B, P, D], unit rows. Position p depends on no item, action, surface or duration after
            p; of the times after p, only on the newest (and, through the count of newer actions, on how
            many there are), unless strictly_causal.
        """
        index = jnp.arange(events.item.shape[1])[None, :]  # [1, T]
        if not self.strictly_causal:  # 0 is the newest action, so that the served position is always 0
            index = jnp.maximum(length[:, None] - 1 - index, 0)  # [B, T]
        with jax.named_scope("input"):
            stream = self.encoder(events, length, item_features)
            if self.positions:
                stream = stream + look_up(self.position_table[...].astype(self.dtype), index)
        dropout = Dropout(self.dropout, dropout_keys)
        stream = dropout(stream)
        for block in self.blocks[:-1]:
            stream = block(stream, dropout)
        with jax.named_scope("last_block"):
            chosen = self.blocks[-1].chosen(stream, position, dropout)
        with jax.named_scope("head"):
            chosen = self.norm(chosen).astype(self.dtype)
            content = unit(self.head(chosen))
        if self.copy is None:
            return content
        with jax.named_scope("identity"):
            actions = self.norm(stream).astype(self.dtype)
            return self.copy(content, chosen, actions, events.item, position, identity_key)
