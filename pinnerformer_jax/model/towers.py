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


class Sizes(NamedTuple):
    """What the data, not the config, decides."""

    item_dim: int  # numbers of an item's feature vector
    actions: int  # vocabularies, the unknown included
    surfaces: int


def unit(vectors: Float[Array, "*dims d"]) -> Float[Array, "*dims d"]:
    """L2-normalised, in float32."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True) + 1e-12)


class Dropout:
    """Zeroes a share of the numbers and scales up the rest, by a key for each user, so that what is dropped
    does not depend on how many devices share the batch. Each call draws anew.

    Args:
        rate: share that is zeroed.
        keys: [B]; None: nothing is dropped, as in validation and serving.
    """

    def __init__(self, rate: float, keys: jax.Array | None) -> None:
        self.rate, self.keys, self.calls = rate, keys, 0

    def __call__(self, stream: Float[Array, "b q h"]) -> Float[Array, "b q h"]:
        """Drop from a stream."""
        if self.keys is None or self.rate == 0:
            return stream
        self.calls += 1

        def keep(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, self.calls), 1 - self.rate, stream.shape[1:])

        kept = jax.vmap(keep)(self.keys)
        return jnp.where(kept, stream / jnp.asarray(1 - self.rate, stream.dtype), jnp.zeros_like(stream))


class Linear(nnx.Linear):
    """nnx.Linear as a matrix product, for the reason that `features.project` gives, and with a bias whose
    gradient is summed in float32."""

    def __call__(  # ty: ignore[incompatible-method-override]
        self, inputs: Float[Array, "*dims i"]
    ) -> Float[Array, "*dims o"]:
        """Apply to the last axis."""
        rows = inputs.reshape(-1, inputs.shape[-1]).astype(self.dtype)
        product = rows @ self.kernel[...].astype(self.dtype)
        if self.bias is not None:
            product = add_bias(product, self.bias[...])
        return product.reshape(*inputs.shape[:-1], -1)


@jax.custom_vjp
def add_bias(rows: Float[Array, "r o"], bias: Float[Array, " o"]) -> Float[Array, "r o"]:
    """rows + bias, in the rows' dtype. The bias's gradient is the sum over all rows, in float32: terms that
    nearly cancel, as the item tower's do, would be lost in bfloat16."""
    return rows + bias.astype(rows.dtype)[None, :]


def _add_bias_forward(rows: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(rows, bias), None


def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jnp.sum(gradient.astype(jnp.float32), axis=0)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


class MLP(nnx.Module):
    """Linear, GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dtype: jnp.dtype, *, rngs: nnx.Rngs) -> None:
        self.up = Linear(inputs, hidden, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: Float[Array, "*dims i"]) -> Float[Array, "*dims o"]:
        """Apply to the last axis."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        return self.down(_gelu(self.up(rows))).reshape(*inputs.shape[:-1], -1)


def _gelu(rows: Float[Array, "r o"]) -> Float[Array, "r o"]:
    """GELU, of which the backward pass keeps the input alone. XLA would keep what is halfway to the gradient
    too, as large again; but not on a TPU, where GELU is part of the products around it. On a GPU bias and
    GELU are then part of the product before them, which writes its input beside it."""
    return (jax.nn.gelu if jax.default_backend() == "tpu" else jax.checkpoint(jax.nn.gelu))(rows)


class Block(nnx.Module):
    """Pre-norm causal self-attention, then pre-norm FFN (4H), each added to the stream [B, T, H]."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width, dtype = config.width, jnp.dtype(config.compute_dtype)
        self.heads, self.attention, self.dtype = config.heads, config.attention, dtype
        self.attention_norm = nnx.LayerNorm(width, dtype=jnp.float32, rngs=rngs)
        # Three products, as the result of one would be cut and its gradient put together again, which a GPU
        # does by copying. A bias of the keys would cancel in the softmax.
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
        """Only the given positions, exactly as `__call__` would have them: keys and values are needed
        everywhere, queries, output projection and FFN only there."""
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
        self.encoder = ActionEncoder(config, *sizes, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.positions = "position" not in config.drop_features
        if self.positions:
            shape = (config.max_length, config.width)
            self.position_table = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, dtype=jnp.float32, rngs=rngs)
        self.head = MLP(config.width, 2 * config.width, config.output_dim, self.dtype, rngs=rngs)

    def __call__(
        self,
        events: Events,
        length: Int[Array, " b"],
        position: Int[Array, "b p"],
        item_features: ItemVectors,
        dropout_keys: jax.Array | None = None,
    ) -> Float[Array, "b p o"]:
        """Embeddings e of the chosen positions; the one that is served is position `length - 1`.

        Args:
            events: histories [B, T], oldest first, padding at the tail.
            length: real events of each.
            position: indices into T; those at or past `length` give values without meaning.
            item_features: the catalogue's vectors, unit rows.
            dropout_keys: [B], in training.

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
            return unit(self.head(self.norm(chosen).astype(self.dtype)))
