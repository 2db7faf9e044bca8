"""Causal attention: every position, or a few chosen ones.

With right padding and a causal mask a real position never sees padding, so no other mask is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pinnerformer_jax.config import Attention

QUERY_BLOCK = 64
TPU_QUERY_BLOCK = 128  # its registers are so wide


def causal_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n h"],
    attention: Attention = "auto",
) -> Float[Array, "b t n h"]:
    """Softmax attention of each position over itself and the positions before it; the softmax is float32.

    Args:
        query, key, value: B users, T positions, N heads of width H.
        attention: the config's `model.attention`. Whether cuDNN or XLA supports these shapes is tried once in
            a process, by compiling attention alone.
    """
    if attention == "auto":
        attention = "cudnn" if _suits_cudnn(query) else "blocks"
    ways = list(WAYS)[list(WAYS).index(attention) :]
    shape = query.shape, query.dtype.name
    way = next(way for way in ways if way == "blocks" or compiles(way, *shape))
    return WAYS[way](query, key, value)


def _suits_cudnn(query: jax.Array) -> bool:
    """cuDNN needs heads that are a multiple of 8 wide, and at most 128: GPUs before Hopper support no wider
    ones."""
    head = query.shape[-1]
    on_gpu = jax.default_backend() == "gpu"
    return on_gpu and query.dtype == jnp.bfloat16 and head % 8 == 0 and head <= 128


def in_blocks(
    query: Float[Array, "b t n h"], key: Float[Array, "b t n h"], value: Float[Array, "b t n h"]
) -> Float[Array, "b t n h"]:
    """Queries in blocks. A block reads no keys beyond its own end, so half of the full square is computed."""
    length, size = query.shape[1], TPU_QUERY_BLOCK if jax.default_backend() == "tpu" else QUERY_BLOCK
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        visible = jnp.arange(end)[None, :] <= jnp.arange(start, end)[:, None]  # [block, end]
        blocks.append(_attend(query[:, start:end], key[:, :end], value[:, :end], visible[None, None]))
    return jnp.concatenate(blocks, axis=1)


def _library(implementation: Literal["cudnn", "xla"]) -> Callable[..., jax.Array]:
    return partial(jax.nn.dot_product_attention, is_causal=True, implementation=implementation)


WAYS: dict[str, Callable[..., jax.Array]] = {
    "cudnn": _library("cudnn"),
    "xla": _library("xla"),
    "blocks": in_blocks,
}
"""In the order in which they are tried."""


@cache
def compiles(way: str, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether this machine compiles attention of these shapes, forward and backward. Prints the reason if it
    does not."""

    def forward_and_backward(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        mixed, backward = jax.vjp(WAYS[way], *arrays)
        return backward(mixed)

    array = jax.ShapeDtypeStruct(shape, dtype)
    try:
        jax.jit(forward_and_backward).lower(array, array, array).compile()
    except Exception as error:  # each library raises its own kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(
            f"model.attention = {way} does not compile here; the next one is used: {reason}", file=sys.stderr
        )
        return False
    return True


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
    scores = _scores(query, key) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnqk,bknh->bqnh", weights.astype(value.dtype), value)


@jax.custom_vjp
def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """float32 [B, N, Q, K]. Their gradient is computed in the inputs' dtype. A float32 gradient would need
    float32 copies of keys and queries, which is slower on a GPU and moves more bytes."""
    return jnp.einsum("bqnh,bknh->bnqk", query, key, preferred_element_type=jnp.float32)


def _scores_forward(query: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _scores(query, key), (query, key)


def _scores_backward(
    operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    query, key = operands
    gradient = gradient.astype(query.dtype)
    return jnp.einsum("bnqk,bknh->bqnh", gradient, key), jnp.einsum("bnqk,bqnh->bknh", gradient, query)


_scores.defvjp(_scores_forward, _scores_backward)
