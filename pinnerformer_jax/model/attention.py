"""Causal attention: every position, or a few chosen ones.

With right padding and a causal mask a real position never sees padding, so no other mask is needed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

QUERY_BLOCK = 64
TPU_QUERY_BLOCK = 128  # its registers are so wide


def causal_attention(
    query: Float[Array, "b t n h"], key: Float[Array, "b t n h"], value: Float[Array, "b t n h"]
) -> Float[Array, "b t n h"]:
    """Softmax attention of each position over itself and what came before; softmax in float32.

    On a GPU in bfloat16 this is cuDNN's fused kernel, for heads a multiple of 8 and at most 128 wide (before
    Hopper it takes no wider ones). Elsewhere
    queries go in blocks, and a block never touches the keys beyond its own end: half of the full square.
    """
    platform = jax.default_backend()
    head = query.shape[-1]
    if platform == "gpu" and query.dtype == jnp.bfloat16 and head % 8 == 0 and head <= 128:
        return jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="cudnn")
    length, size = query.shape[1], TPU_QUERY_BLOCK if platform == "tpu" else QUERY_BLOCK
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        visible = jnp.arange(end)[None, :] <= jnp.arange(start, end)[:, None]  # [block, end]
        blocks.append(_attend(query[:, start:end], key[:, :end], value[:, :end], visible[None, None]))
    return jnp.concatenate(blocks, axis=1)


def chosen_attention(
    query: Float[Array, "b p n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n h"],
    position: Int[Array, "b p"],
) -> Float[Array, "b p n h"]:
    """The same rows as `causal_attention`, only those of the given positions."""
    visible = jnp.arange(key.shape[1])[None, None, :] <= position[:, :, None]  # [B, P, T]
    return _attend(query, key, value, visible[:, None])


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, visible: jax.Array) -> jax.Array:
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnqk,bknh->bqnh", weights.astype(value.dtype), value)
