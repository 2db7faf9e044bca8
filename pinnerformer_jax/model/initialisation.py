"""Aligned initialisation: both towers start in the same space. The paper does not say how it starts; this is
our choice.

An item's embedding starts as its vector, mapped by a random orthogonal matrix. A user's embedding starts as
about the mean of the vectors of the user's items, mapped by the same matrix. Action, surface, duration and
time start without effect. Towers with independent random starts must first learn which direction of one
tower corresponds to which direction of the other, and a log of a few thousand users is too small for that.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pinnerformer_jax.model.layers import MLP
from pinnerformer_jax.model.towers import Block, UserTower

MEAN_GAIN = 3.0
"""Factor by which each block scales the mean of the actions; the mean of many vectors is short."""


def align_towers(user: UserTower, item: MLP, rngs: nnx.Rngs) -> None:
    """Overwrite the parameters of both towers in place.

    Args:
        user: the user tower.
        item: the item tower.
        rngs: source of the random orthogonal matrices.
    """
    item_dim, output_dim = item.up.kernel.shape[0], item.down.kernel.shape[1]
    shared = orthogonal(item_dim, output_dim, rngs)
    set_linear(item, shared, rngs)
    if user.encoder.item:
        entry = orthogonal(item_dim, user.encoder.kernel.shape[1], rngs)
        user.encoder.kernel[...] = jnp.zeros_like(user.encoder.kernel[...]).at[:item_dim].set(entry)
        set_linear(user.head, entry.T @ shared, rngs)
    for block in user.blocks:
        set_mean(block)


def set_linear(mlp: MLP, kernel: Float[Array, "i o"], rngs: nnx.Rngs) -> None:
    """Make an MLP compute the linear map `kernel`, up to the rank that half of its hidden units can hold.
    Hidden units work in pairs of opposite sign, as GELU(x) - GELU(-x) = x ("looks linear" initialisation,
    Balduzzi et al. 2017)."""
    inputs, hidden = mlp.up.kernel.shape
    half = orthogonal(inputs, hidden // 2, rngs)
    unpaired = jnp.zeros((inputs, hidden % 2))
    mlp.up.kernel[...] = jnp.concatenate([half, -half, unpaired], axis=1)
    mlp.down.kernel[...] = jnp.concatenate([half.T, -half.T, unpaired.T]) @ kernel


def set_mean(block: Block) -> None:
    """Make a block add about the mean of the residual stream up to each position: its attention passes values
    through unchanged, and its FFN returns zero."""
    width = block.out.kernel.shape[0]
    block.value.kernel[...] = jnp.eye(width)
    block.out.kernel[...] = MEAN_GAIN * jnp.eye(width)
    block.ffn.down.kernel[...] = jnp.zeros_like(block.ffn.down.kernel[...])


def orthogonal(inputs: int, outputs: int, rngs: nnx.Rngs) -> Float[Array, "i o"]:
    """A random matrix that keeps inner products; into fewer dimensions, a projection."""
    return jax.nn.initializers.orthogonal()(rngs.params(), (inputs, outputs), jnp.float32)
