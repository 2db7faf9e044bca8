"""Layers that both towers are made of: unit vectors, dropout by user, linear maps and MLPs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


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
