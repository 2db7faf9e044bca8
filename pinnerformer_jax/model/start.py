"""What the towers are before training: in agreement. The paper does not say; our choice.

An item's embedding starts as its vector, turned at random, and a user's as about the mean of its items'
vectors, turned likewise; what else is known of an action adds nothing yet. Towers that start at random must
learn first which direction of one answers to which of the other, and a log of a few thousand users does not
teach it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pinnerformer_jax.model.towers import MLP, Block, PinnerFormer

MEAN_GAIN = 3.0
"""What each block multiplies the mean of the actions with: the mean of many is shorter than each."""


def align_towers(model: PinnerFormer, rngs: nnx.Rngs) -> None:
    """Set the parameters in place."""
    user = model.user
    item_dim, output_dim = model.item.up.kernel.shape[0], model.item.down.kernel.shape[1]
    turned = orthogonal(item_dim, output_dim, rngs)
    set_linear(model.item, turned, rngs)
    if user.encoder.item:
        entry = orthogonal(item_dim, user.encoder.kernel.shape[1], rngs)
        user.encoder.kernel[...] = jnp.zeros_like(user.encoder.kernel[...]).at[:item_dim].set(entry)
        set_linear(user.head, entry.T @ turned, rngs)
    for block in user.blocks:
        set_mean(block)


def set_linear(mlp: MLP, kernel: Float[Array, "i o"], rngs: nnx.Rngs) -> None:
    """Make an MLP the linear map `kernel`, as far as half of its hidden units can hold it: they work in pairs
    of opposite sign, as GELU(x) - GELU(-x) = x ("looks linear", Balduzzi et al. 2017)."""
    inputs, hidden = mlp.up.kernel.shape
    half = orthogonal(inputs, hidden // 2, rngs)
    alone = jnp.zeros((inputs, hidden % 2))
    mlp.up.kernel[...] = jnp.concatenate([half, -half, alone], axis=1)
    mlp.down.kernel[...] = jnp.concatenate([half.T, -half.T, alone.T]) @ kernel


def set_mean(block: Block) -> None:
    """Make a block add about the mean of the stream so far, and nothing else: attention whose values pass
    through, and an FFN of zero."""
    width = block.out.kernel.shape[0]
    block.value.kernel[...] = jnp.eye(width)
    block.out.kernel[...] = MEAN_GAIN * jnp.eye(width)
    block.ffn.down.kernel[...] = jnp.zeros_like(block.ffn.down.kernel[...])


def orthogonal(inputs: int, outputs: int, rngs: nnx.Rngs) -> Float[Array, "i o"]:
    """A random map that keeps inner products; into fewer dimensions, a projection."""
    return jax.nn.initializers.orthogonal()(rngs.params(), (inputs, outputs), jnp.float32)
