"""Identity beside content: a part of each embedding that names the item itself.

An item's vector says what it is like; two similar items have similar vectors, and a user's embedding cannot
say which of them the user comes back to. The identity part can: each item of the training period has a fixed
random unit vector, nearly orthogonal to all others, and a user's identity part is a weighted sum of those of
the history. The paper has no such part; this is our choice.

B users, T actions, P chosen positions, H width, I numbers of an identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

_BITS = 32


def identity_vectors(ids: Int[Array, "*dims"], dim: int) -> Float[Array, "*dims {dim}"]:
    """Unit vectors of random signs, a function of the item's number: no table holds them.

    Args:
        ids: numbers of items.
        dim: I, any number.
    """
    words = np.arange(-(-dim // _BITS), dtype=np.uint32)
    mixed = mix(mix(ids.astype(jnp.uint32))[..., None] + mix(jnp.asarray(words)))
    bits = (mixed[..., None] >> np.arange(_BITS, dtype=np.uint32)) & np.uint32(1)
    signs = bits.reshape(*ids.shape, -1)[..., :dim].astype(jnp.float32) * 2.0 - 1.0
    return signs * dim**-0.5


def hidden_items(ids: Int[Array, "*dims"], key: jax.Array, share: float) -> Bool[Array, "*dims"]:
    """Which items have no identity in this step: a share of all, the same wherever an item occurs.

    Args:
        ids: numbers of items.
        key: of the step.
        share: of the items.
    """
    return mix(ids.astype(jnp.uint32) ^ jax.random.bits(key)) < np.uint32(share * 2**32)


def mix(value: UInt32[Array, "*dims"]) -> UInt32[Array, "*dims"]:
    """A bijection in which every input bit moves every output bit (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * np.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
