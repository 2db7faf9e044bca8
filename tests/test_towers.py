import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from pinnerformer_jax.model import layers
from pinnerformer_jax.model.layers import MLP, Dropout
from pinnerformer_jax.model.pinnerformer import PinnerFormer

NONE = Dropout(0.0, None)


def build(**changes) -> PinnerFormer:
    config = small.config()
    model = PinnerFormer(
        dataclasses.replace(config, model=dataclasses.replace(config.model, **changes)), small.SIZES
    )
    rng = np.random.default_rng(7)
    # Phases and biases start at zero, where some mistakes do not show.
    for tower in (model.user.encoder.phase, model.user.encoder.bias):
        tower[...] = jnp.asarray(rng.normal(size=tower.shape).astype(np.float32))
    return model


def everywhere(batch) -> jax.Array:
    users, width = batch.history.item.shape
    return jnp.tile(jnp.arange(width)[None, :], (users, 1))


@pytest.mark.slow
def test_without_positional_encoding_the_table_is_gone_and_counts_as_zero():
    whole, part = build(layers=1), build(layers=1, drop_features=("position",))
    whole.user.position_table[...] = jnp.zeros_like(whole.user.position_table[...])
    assert not hasattr(part.user, "position_table")
    whole_state = nnx.to_pure_dict(nnx.state(whole, nnx.Param))
    del whole_state["user"]["position_table"]
    part = nnx.merge(nnx.graphdef(part), whole_state)
    batch, tables = small.batch(), small.tables()
    args = (batch.history, batch.length, (batch.length - 1)[:, None], tables.item_features)
    np.testing.assert_allclose(part.user(*args), whole.user(*args), atol=1e-6)


def test_outputs_are_unit_rows():
    model, batch, tables = build(), small.batch(), small.tables()
    users = model.user(batch.history, batch.length, everywhere(batch), tables.item_features)
    assert users.shape == (16, 20, 16)
    np.testing.assert_allclose(jnp.linalg.norm(users, axis=-1), 1.0, atol=1e-5)
    items = model.embed_items(tables.item_features.values)
    np.testing.assert_allclose(jnp.linalg.norm(items, axis=-1), 1.0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 3])
def test_pruned_last_block_equals_the_whole(layers):
    model, batch, tables = build(layers=layers), small.batch(), small.tables()
    whole = model.user(batch.history, batch.length, everywhere(batch), tables.item_features)
    chosen = jnp.asarray(np.random.default_rng(0).integers(0, 20, (16, 5)))
    some = model.user(batch.history, batch.length, chosen, tables.item_features)
    np.testing.assert_allclose(some, jnp.take_along_axis(whole, chosen[:, :, None], axis=1), atol=1e-5)

    stream = jax.random.normal(jax.random.key(1), (4, 20, 32))
    block, position = model.user.blocks[-1], chosen[:4]
    pruned = jax.grad(lambda s: jnp.sum(jnp.sin(block.chosen(s, position, NONE))))(stream)
    unpruned = jax.grad(
        lambda s: jnp.sum(jnp.sin(jnp.take_along_axis(block(s, NONE), position[:, :, None], axis=1)))
    )(stream)
    np.testing.assert_allclose(pruned, unpruned, atol=1e-5)


@pytest.mark.parametrize("strictly_causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_output_depends_on_a_later_action(strictly_causal):
    """By gradient where an input is a number (item vector, duration), by change where it is not."""
    model, batch, tables = build(strictly_causal=strictly_causal), small.batch(), small.tables()
    full = jnp.full(16, 20)
    per_event = tables.item_features[batch.history.item]  # [B, T, D]: a row of its own for each event
    own = batch.history._replace(item=jnp.arange(16 * 20).reshape(16, 20))

    def outputs(vectors, duration):
        history = own._replace(duration=duration)
        out = model.user(history, full, everywhere(batch), vectors.reshape(-1, small.ITEM_DIM))
        return out[0]  # [T, D] of user 0

    jacobians = jax.jacrev(outputs, argnums=(0, 1))(per_event, batch.history.duration)
    for jacobian in jacobians:
        reach = jnp.abs(jacobian[:, :, 0]).sum(axis=tuple(range(3, jacobian.ndim - 1)))  # user 0's inputs
        reach = reach.reshape(20, 16, 20).sum(axis=1)  # [position, event]
        np.testing.assert_array_equal(np.triu(reach, 1), 0.0)
        assert (np.diag(reach) > 0).all()

    before = model.user(batch.history, full, everywhere(batch), tables.item_features)
    for field in ("action", "surface", "time") if strictly_causal else ("action", "surface"):
        values = getattr(batch.history, field)
        changed = values.at[:, 12:].set((values[:, 12:] + 1) % 3 if field != "time" else values[:, 12:] + 977)
        history = batch.history._replace(**{field: changed})
        after = model.user(history, full, everywhere(batch), tables.item_features)
        np.testing.assert_array_equal(before[:, :12], after[:, :12])
        assert not np.allclose(before[:, 12:], after[:, 12:])


@pytest.mark.slow
def test_padding_changes_nothing():
    model, tables = build(), small.tables()
    batch = small.batch()
    newest = (batch.length - 1)[:, None]
    before = model.user(batch.history, batch.length, newest, tables.item_features)
    padding = jnp.arange(20)[None, :] >= batch.length[:, None]
    assert padding.any()
    noise = small.batch(seed=9).history
    history = type(noise)(*(jnp.where(padding, n, v) for n, v in zip(noise, batch.history, strict=True)))
    after = model.user(history, batch.length, newest, tables.item_features)
    np.testing.assert_allclose(before, after, atol=1e-6)
    # and more of it changes nothing either
    shorter = jax.tree.map(lambda v: v[-4:, : int(batch.length[-4])], batch.history)
    cut = model.user(shorter, batch.length[-4:], newest[-4:], tables.item_features)
    np.testing.assert_allclose(before[-4:], cut, atol=1e-5)


@pytest.mark.slow
def test_the_served_position_is_always_number_zero():
    model, tables = build(), small.tables()
    batch = small.batch()
    newest = (batch.length - 1)[:, None]

    graphdef, variables = nnx.split(model)

    def served(params):
        user = nnx.merge(graphdef, params).user
        return jnp.sum(user(batch.history, batch.length, newest, tables.item_features)[0, :, 0])

    batch = batch._replace(length=jnp.ones(16, jnp.int32))
    newest = newest * 0
    gradient = jax.grad(served)(nnx.to_pure_dict(variables))["user"]["position_table"]
    reach = jnp.abs(gradient).sum(axis=1)
    assert reach[0] > 0
    np.testing.assert_array_equal(reach[1:], 0.0)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    batch, tables = small.batch(), small.tables()
    newest = (batch.length - 1)[:, None]
    exact = build().user(batch.history, batch.length, newest, tables.item_features)
    rounded = build(compute_dtype="bfloat16").user(batch.history, batch.length, newest, tables.item_features)
    assert rounded.dtype == jnp.float32
    assert jnp.min(jnp.sum(exact * rounded, axis=-1)) > 0.995


def test_dropout_zeroes_its_share_keeps_the_mean_and_draws_anew_for_each_user_and_call():
    ones = jnp.ones((4, 50, 40))
    dropout = Dropout(0.25, jax.random.split(jax.random.key(0), 4))
    first, second = dropout(ones), dropout(ones)
    assert set(np.unique(first).tolist()) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_allclose(first.mean(axis=(1, 2)), 1.0, atol=0.06)
    for one, other in ((first[0], first[1]), (first, second)):
        assert float((one != other).mean()) == pytest.approx(2 * 0.25 * 0.75, abs=0.03)
    np.testing.assert_array_equal(Dropout(0.25, None)(ones), ones)


def test_dropout_acts_in_training_only():
    model, batch, tables = build(dropout=0.3), small.batch(), small.tables()
    newest = (batch.length - 1)[:, None]
    args = (batch.history, batch.length, newest, tables.item_features)
    keys = jax.random.split(jax.random.key(1), 16)
    np.testing.assert_array_equal(model.user(*args), build(dropout=0.0).user(*args, keys))
    assert not np.allclose(model.user(*args), model.user(*args, keys))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # where the backward pass keeps different things
def test_an_mlp_is_linear_gelu_linear_in_value_and_gradient(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    mlp = MLP(5, 6, 7, jnp.dtype("float32"), rngs=nnx.Rngs(0))
    mlp.up.bias[...] = jnp.linspace(-1.0, 1.0, 6)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32))
    graphdef, state = nnx.split(mlp)

    def ours(state):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, state)(inputs)))

    def plain(state):
        model = nnx.merge(graphdef, state)
        return jnp.sum(jnp.sin(model.down(jax.nn.gelu(model.up(inputs)))))

    got, wanted = jax.value_and_grad(ours)(state), jax.value_and_grad(plain)(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, wanted)


def test_a_biass_gradient_is_summed_in_float32():
    rows = jnp.zeros((4096, 1), jnp.bfloat16)
    outward = jnp.where(jnp.arange(4096)[:, None] % 2 == 0, 1.0, -0.99609375).astype(jnp.bfloat16)
    _, backward = jax.vjp(layers.add_bias, rows, jnp.zeros(1, jnp.float32))
    to_rows, to_bias = backward(outward)
    assert to_rows.dtype == jnp.bfloat16
    assert float(to_bias[0]) == 2048 * (1 - 0.99609375), "exact, where bfloat16 would round each partial sum"
