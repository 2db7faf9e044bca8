import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinnerformer_jax.model import attention
from pinnerformer_jax.model.attention import (
    QUERY_BLOCK,
    TPU_QUERY_BLOCK,
    causal_attention,
    chosen_attention,
)


def qkv(length: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(2, length, 3, 8)).astype(np.float32)) for _ in range(3))


@pytest.mark.parametrize(
    "length",
    [
        5,
        QUERY_BLOCK + 1,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (1, QUERY_BLOCK, 2 * QUERY_BLOCK + 17)),
    ],
)
def test_blocks_equal_the_library_in_value_and_gradient(length):
    def ours(*args):
        return jnp.sum(jnp.sin(causal_attention(*args)))

    def library(*args):
        return jnp.sum(jnp.sin(jax.nn.dot_product_attention(*args, is_causal=True, implementation="xla")))

    got, got_gradient = jax.value_and_grad(ours, argnums=(0, 1, 2))(*qkv(length))
    wanted, wanted_gradient = jax.value_and_grad(library, argnums=(0, 1, 2))(*qkv(length))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got_gradient, wanted_gradient)


@pytest.mark.slow
def test_a_tpus_blocks_give_the_same(monkeypatch):
    inputs = qkv(2 * TPU_QUERY_BLOCK + 17)
    wanted = causal_attention(*inputs)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert str(jax.make_jaxpr(causal_attention)(*inputs)).count("exp ") == 3  # one softmax a block
    np.testing.assert_allclose(causal_attention(*inputs), wanted, atol=1e-6)


def test_chosen_rows_equal_those_of_the_whole():
    query, key, value = qkv(40)
    position = jnp.asarray([[0, 7, 39], [5, 5, 20]])
    rows = jnp.take_along_axis(causal_attention(query, key, value), position[:, :, None, None], axis=1)
    there = jnp.take_along_axis(query, position[:, :, None, None], axis=1)
    np.testing.assert_allclose(chosen_attention(there, key, value, position), rows, atol=1e-6)


def test_bfloat16_keeps_its_softmax_in_float32():
    exact = causal_attention(*qkv(100))
    rounded = causal_attention(*(part.astype(jnp.bfloat16) for part in qkv(100)))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.05)


def test_a_way_that_does_not_compile_is_named_and_the_next_is_taken(capsys):
    attention.compiles.cache_clear()
    inputs = qkv(9)
    got = causal_attention(*inputs, "cudnn")  # there is none on a CPU
    assert "model.attention = cudnn does not compile here; the next one is used" in capsys.readouterr().err
    np.testing.assert_allclose(got, causal_attention(*inputs, "blocks"), atol=1e-6)
    np.testing.assert_array_equal(got, causal_attention(*inputs, "xla"))


@pytest.mark.slow
def test_scores_have_their_gradient_in_the_dtype_of_the_inputs():
    query, key, value = (part.astype(jnp.bfloat16) for part in qkv(12))
    position = jnp.asarray([[3, 11], [0, 7]])

    def run(query, key, value):
        return jnp.sum(jnp.sin(chosen_attention(query[:, :2], key, value, position).astype(jnp.float32)))

    got = jax.grad(run, argnums=(0, 1, 2))(query, key, value)
    wanted = jax.grad(run, argnums=(0, 1, 2))(*(part.astype(jnp.float32) for part in (query, key, value)))
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == jnp.bfloat16
        assert float(jnp.linalg.norm(g.astype(jnp.float32) - w) / jnp.linalg.norm(w)) < 2e-2
