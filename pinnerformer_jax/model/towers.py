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
    """Sizes that the data decide, not the config; `open_training_data` gives them."""

    item_dim: int  # length of an item's feature vector
    actions: int  # vocabularies, the unknown included
    surfaces: int


def unit(vectors: Float[Array, "*dims d"]) -> Float[Array, "*dims d"]:
    """L2-normalised, in float32."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True) + 1e-12)


class Dropout:
    """Sets a share of the numbers to zero and scales up the rest. Each user has a random key, so that the
    masks do not depend on the number of devices. Each call draws new masks.

    Args:
        rate: share that is set to zero.
        keys: a random key for each user, [B]; None drops nothing, as in validation and serving.
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
    """nnx.Linear as a product of two matrices, for the reason that `features.project` gives. The gradient of
    the bias is summed in float32."""

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
    """rows + bias, in the rows' dtype. The gradient of the bias is the sum over all rows, in float32. Its
    terms nearly cancel in the item tower, and bfloat16 would lose the sum."""
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
    """GELU whose backward pass keeps only its input. XLA would also keep an intermediate of the same size;
    not on a TPU, where GELU is fused into the products around it. On a GPU, bias and GELU are then fused into
    the product before them, which also writes GELU's input."""
    return (jax.nn.gelu if jax.default_backend() == "tpu" else jax.checkpoint(jax.nn.gelu))(rows)


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
        """Embeddings of the chosen positions. The one that is served is position `length - 1`.

        Args:
            events: histories [B, T], oldest first, padding at the tail.
            length: int32 [B], real events of each.
            position: int32 [B, P], indices into T; at or past `length` the result has no meaning.
            item_features: the catalogue's vectors, unit rows.
            dropout_keys: a random key for each user, [B], in training; None: no dropout.

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
