"""Identity beside content: a part of each embedding that names the item itself.

An item's vector says what the item is like. Two similar items have similar vectors, and a user's embedding
cannot say to which of them the user comes back. The identity part can: each item of the training period has
a fixed vector of random signs, nearly orthogonal to all others, and a user's identity part is a weighted mean
of those of the history. Items that came later have none: their content alone is compared. The paper has no
such part; `model.identity_dim` = 0 leaves it out.

Both towers start aligned: the weights start equal, so that a user's identity part starts as the mean of the
items'.

B users, T actions, P chosen positions, H width, D output, I numbers of an identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from pinnerformer_jax.config import ModelConfig
from pinnerformer_jax.model.layers import Linear, unit

_ATTENTION_DIM = 64
_BITS = 32


class ItemIdentity(nnx.Module):
    """Joins an item's content part and its identity.

    Args:
        config: sizes.
        known: items 0 : known have an identity.
        item_dim: numbers of an item's vector.
        rngs: of the initialisation.
    """

    def __init__(self, config: ModelConfig, known: int, item_dim: int, *, rngs: nnx.Rngs) -> None:
        self.known, self.dim, self.hidden_share = known, config.identity_dim, config.identity_dropout
        dtype, zero = jnp.dtype(config.compute_dtype), nnx.initializers.zeros
        self.share = Linear(item_dim, 1, kernel_init=zero, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        content: Float[Array, "*dims c"],
        features: Float[Array, "*dims d"],
        ids: Int[Array, "*dims"],
        key: jax.Array | None,
    ) -> Float[Array, "*dims o"]:
        """Embeddings, unit rows.

        Args:
            content: unit rows.
            features: the items' vectors, from which the identity's share is learned.
            ids: the items' numbers.
            key: of the step, in training; None: no identity is hidden.
        """
        own = identities(ids, self.dim, self.known, self.hidden_share, key)
        return _join(content, own, self.share(features))


class CopyHead(nnx.Module):
    """The identity part of a user's embedding, joined with the content part: the mean of the identities of
    the history, weighted by an attention of one head.

    Args:
        config: sizes.
        known: items 0 : known have an identity.
        rngs: of the initialisation.
    """

    def __init__(self, config: ModelConfig, known: int, *, rngs: nnx.Rngs) -> None:
        self.known, self.dim, self.hidden_share = known, config.identity_dim, config.identity_dropout
        dtype, zero = jnp.dtype(config.compute_dtype), nnx.initializers.zeros
        self.query = Linear(config.width, _ATTENTION_DIM, kernel_init=zero, dtype=dtype, rngs=rngs)
        self.key = Linear(config.width, _ATTENTION_DIM, use_bias=False, dtype=dtype, rngs=rngs)
        self.share = Linear(config.width, 1, kernel_init=zero, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        content: Float[Array, "b p c"],
        chosen: Float[Array, "b p h"],
        actions: Float[Array, "b t h"],
        items: Int[Array, "b t"],
        position: Int[Array, "b p"],
        key: jax.Array | None,
    ) -> Float[Array, "b p o"]:
        """Embeddings of the chosen positions, unit rows.

        Args:
            content: unit rows.
            chosen: the Transformer's output at the chosen positions.
            actions: its stream at all positions, before the last block.
            items: numbers of the items of the history.
            position: the chosen positions; one sees the actions up to it.
            key: of the step, in training; None: no identity is hidden.
        """
        scores = jnp.einsum("bpd,btd->bpt", self.query(chosen), self.key(actions)).astype(jnp.float32)
        visible = jnp.arange(items.shape[1])[None, None, :] <= position[:, :, None]
        weight = jax.nn.softmax(jnp.where(visible, scores * _ATTENTION_DIM**-0.5, -jnp.inf), axis=-1)
        own = identities(items, self.dim, self.known, self.hidden_share, key)
        return _join(content, unit(jnp.einsum("bpt,bti->bpi", weight, own)), self.share(chosen))


def _join(
    content: Float[Array, "*dims c"], identity: Float[Array, "*dims i"], logit: Float[Array, "*dims 1"]
) -> Float[Array, "*dims o"]:
    """Both parts as one unit vector; sigmoid(logit) is the identity's share of its square. Where there is no
    identity, the content is all of it."""
    logit = logit.astype(jnp.float32)
    parts = content * jnp.sqrt(jax.nn.sigmoid(-logit)), identity * jnp.sqrt(jax.nn.sigmoid(logit))
    return unit(jnp.concatenate(parts, axis=-1))


def identities(
    ids: Int[Array, "*dims"], dim: int, known: int, hidden_share: float = 0.0, key: jax.Array | None = None
) -> Float[Array, "*dims {dim}"]:
    """Unit vectors of random signs, a function of the item's number: no table holds them. Zero for items
    without an identity.

    Args:
        ids: numbers of items.
        dim: I.
        known: items 0 : known have one.
        hidden_share: share of these that have none in this step, the same wherever an item occurs.
        key: of the step; None: none is hidden.
    """
    words = jnp.asarray(np.arange(-(-dim // _BITS), dtype=np.uint32))  # ONNX makes no ranges of uint32
    mixed = _mix(_mix(ids.reshape(-1).astype(jnp.uint32))[:, None] + _mix(words)[None, :])
    bits = (mixed[:, :, None] >> np.arange(_BITS, dtype=np.uint32)[None, None, :]) & np.uint32(1)
    signs = bits.reshape(*ids.shape, -1)[..., :dim].astype(jnp.float32) * 2.0 - 1.0
    shown = ids < known
    if key is not None and hidden_share:
        shown &= ~hidden_items(ids, key, hidden_share)
    return jnp.where(shown[..., None], signs * dim**-0.5, 0.0)


def hidden_items(ids: Int[Array, "*dims"], key: jax.Array, share: float) -> Bool[Array, "*dims"]:
    """Which items are hidden in the step of this key, wherever they occur: about that share of them."""
    return _mix(ids.astype(jnp.uint32) ^ jax.random.bits(key)) < np.uint32(share * 2**32)


def _mix(value: UInt32[Array, "*dims"]) -> UInt32[Array, "*dims"]:
    """A bijection in which every input bit moves every output bit (the finaliser of MurmurHash3)."""
    value = _times(value ^ (value >> 16), 0x85EBCA6B)
    value = _times(value ^ (value >> 13), 0xC2B2AE35)
    return value ^ (value >> 16)


def _times(value: UInt32[Array, "*dims"], factor: int) -> UInt32[Array, "*dims"]:
    """The product's lower 32 bits, taken as those of int32, because ONNX Runtime does not multiply uint32."""
    product = value.astype(jnp.int32) * np.uint32(factor).astype(np.int32)
    return product.astype(jnp.uint32)
