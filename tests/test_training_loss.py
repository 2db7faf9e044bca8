"""The function that computes the loss of a step: on one device, over many, and with any objective."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from pinnerformer_jax.data.text_map import vectors_from_text
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.objective.loss import Rows
from pinnerformer_jax.objective.targets import Targets, configured_objective, next_action
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import create
from pinnerformer_jax.training.step import make_gradient, make_validation_step
from pinnerformer_jax.training.training_loss import draw_contrasts, some_as_new, training_loss

CORPUS = 50


def with_objective(*, dropout=0.0, **changes):
    """A model of one block."""
    config = small.config()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, layers=1, dropout=dropout),
        objective=dataclasses.replace(config.objective, **changes),
    )


def own_gradient(config, *, training=True, tables=None, **options):
    """A step of somebody's own, outside any map: ((loss, (sketch, metrics)), gradient)."""
    graphdef, params = PinnerFormer(config, small.SIZES).split()
    sketch, key = frequency.empty_sketch(config.objective), jax.random.fold_in(jax.random.key(0), 0)

    @partial(jax.value_and_grad, has_aux=True)
    def loss_of(params, batch, tables):
        model = nnx.merge(graphdef, params)
        return training_loss(
            model, config, batch, tables, sketch, key, corpus=CORPUS, training=training, **options
        )

    return jax.jit(loss_of)(params, small.batch(), tables or small.tables())


@pytest.fixture(scope="module")
def own():
    return own_gradient(with_objective(dropout=0.2))


@pytest.mark.slow
def test_outside_a_map_it_is_the_train_step_of_the_loop(own):
    config, mesh = with_objective(dropout=0.2), make_mesh(8)
    graphdef, state = create(config, small.SIZES)
    state, tables = replicate(mesh, (state, small.tables()))
    batch = shard_batch(mesh, small.batch())
    loss, gradient = make_gradient(config, graphdef, mesh, CORPUS)(state, batch, tables)
    (own_loss, (_, metrics)), own_grad = own
    np.testing.assert_allclose(own_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), own_grad, gradient)
    measured = make_validation_step(config, graphdef, mesh, CORPUS)(state, batch, tables)
    assert {name: int(metrics[name]) for name in metrics} == {name: int(measured[name]) for name in metrics}


def test_the_sketch_has_counted_the_positives_of_the_step(own):
    (_, (sketch, metrics)), _ = own
    assert float(sketch.total) == int(metrics["pairs"]) > 0


@pytest.mark.slow
def test_dropout_acts_in_training_only(own):
    (validation, _), _ = own_gradient(with_objective(dropout=0.2), training=False)
    (without, _), _ = own_gradient(with_objective(dropout=0.0))
    assert float(validation) == pytest.approx(float(without), rel=1e-6)
    assert float(own[0][0]) != pytest.approx(float(validation), rel=1e-3)


def text_map():
    """For vectors whose last five numbers are of text."""
    return jnp.asarray(np.random.default_rng(2).normal(size=(6, small.ITEM_DIM - 5)).astype(np.float32))


def test_some_items_are_taken_for_new_wherever_they_occur():
    ids = jnp.asarray(np.random.default_rng(0).integers(0, small.ITEMS, 200), jnp.int32)
    has_text = (ids != 3).astype(jnp.float32)[:, None]
    features = small.tables().item_features[ids].at[:, -5:].multiply(has_text)
    shown = np.asarray(some_as_new(features, ids, jax.random.key(0), 0.3, text_map()))
    changed = np.abs(shown - features).max(axis=1) > 1e-6
    items = set(np.asarray(ids)[changed].tolist())
    assert 0.15 < len(items) / small.ITEMS < 0.45
    assert 3 not in items
    assert set(np.asarray(ids)[~changed].tolist()).isdisjoint(items)
    text = np.asarray(features[:, -5:])
    text = text[changed] / np.linalg.norm(text[changed], axis=1, keepdims=True)
    np.testing.assert_allclose(shown[changed], vectors_from_text(text, np.asarray(text_map())), atol=1e-5)


@pytest.mark.slow
def test_items_are_taken_for_new_in_training_only_and_alike_on_all_devices():
    config, tables = with_objective(new_item_share=0.5), small.tables()._replace(text_map=text_map())
    (without, _), _ = own_gradient(config)
    (loss, _), gradient = own_gradient(config, tables=tables)
    assert float(loss) != pytest.approx(float(without), rel=1e-4)
    (validation, _), _ = own_gradient(config, tables=tables, training=False)
    assert float(validation) == pytest.approx(float(without), rel=1e-6)
    mesh = make_mesh(8)
    graphdef, state = create(config, small.SIZES)
    state, tables = replicate(mesh, (state, tables))
    batch = shard_batch(mesh, small.batch())
    of_many = make_gradient(config, graphdef, mesh, CORPUS)(state, batch, tables)
    np.testing.assert_allclose(loss, of_many[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), gradient, of_many[1])


def newest_only(keys, batch, positive_table, item=3):
    """Every user's newest position on one item: an objective that nobody has written into the package."""
    newest = jnp.maximum(batch.length - 1, 0)[:, None]
    valid = (batch.length > 0)[:, None]
    return Targets(newest, jnp.full_like(newest, item), valid, valid.astype(jnp.float32))


@pytest.mark.slow
def test_an_objective_may_be_anybodys_function():
    (_, (sketch, metrics)), gradient = own_gradient(small.config(), objective=newest_only)
    assert int(metrics["pairs"]) == 16
    assert float(frequency.frequency(sketch, jnp.asarray([3]))[0]) == 1.0
    assert float(jnp.abs(gradient["user"]["position_table"]).sum()) > 0
    bound = partial(next_action, horizon=28 * 86_400)
    named = own_gradient(with_objective(name="next_action"))
    given = own_gradient(with_objective(), objective=bound)
    jax.tree.map(np.testing.assert_array_equal, given, named)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"item": jnp.zeros((4, 1), jnp.int32)},
            r"Targets.item is int32\[4, 1\]",
        ),
        ({"weight": jnp.ones((16, 2))}, r"Targets.weight is float32\[16, 2\]; it must be floating\[16, P\]"),
        ({"valid": jnp.ones((16, 1))}, r"Targets.valid is float32\[16, 1\]; it must be bool"),
        ({"position": jnp.zeros(16, jnp.int32)}, r"Targets.position is int32\[16\]"),
    ],
    ids=["users", "pairs", "type", "axes"],
)
def test_targets_of_the_wrong_shape_are_refused(changes, message):
    def wrong(*args):
        return newest_only(*args)._replace(**changes)

    with pytest.raises(ValueError, match=message):
        own_gradient(with_objective(), objective=wrong)


def contrasts(**changes):
    """Of a step whose positives are items 0 .. 8 of three users."""
    item, user = jnp.arange(9, dtype=jnp.int32), jnp.repeat(jnp.arange(3, dtype=jnp.int32), 3)
    valid = item != 4
    sketch = frequency.update(small.sketch(4, 1 << 10), item, valid, decay=1.0)
    rows = Rows(item, user, jnp.ones(9), jnp.zeros(9))
    objective = with_objective(**changes).objective
    return draw_contrasts(objective, jax.random.key(0), rows, (item, user, valid), sketch, CORPUS)


@pytest.mark.slow
def test_separate_pools_are_the_merged_pool_in_two_and_each_has_its_own_q():
    (merged,), (in_batch, random) = contrasts(), contrasts(pool="separate")
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), in_batch.pool, random.pool)
    jax.tree.map(np.testing.assert_array_equal, joined, merged.pool)
    assert in_batch.pool.item.tolist() == list(range(9))
    assert int(in_batch.pool.valid.sum()) == 8
    assert random.pool.item.shape == (40,)
    counted = np.arange(9) != 4  # each once, of eight positives: expected once in a pool of eight
    np.testing.assert_allclose(in_batch.rows.log_q[counted], 0.0, atol=1e-6)
    np.testing.assert_allclose(random.rows.log_q, np.log(40 / CORPUS), rtol=1e-6)
    np.testing.assert_allclose(random.pool_log_q, np.log(40 / CORPUS), rtol=1e-6)
    np.testing.assert_allclose(merged.rows.log_q, np.log(counted + 40 / CORPUS), rtol=1e-5)


def test_what_logq_corrects():
    (off,), (on,), (refined,) = contrasts(logq=False), contrasts(), contrasts(refined_logq=True)
    assert not off.rows.log_q.any()
    assert not off.pool_log_q.any()
    assert on.rows.log_q.all()
    assert not refined.rows.log_q.any()
    np.testing.assert_array_equal(refined.pool_log_q, on.pool_log_q)


@pytest.mark.parametrize(
    ("name", "width"),
    [("dense_all_action", 6), ("all_action", 6), ("next_action", 1), ("sasrec", 20), ("sasrec_plain", 20)],
)
@pytest.mark.slow
def test_the_config_chooses_the_objective(name, width):
    objective, batch = with_objective(name=name).objective, small.batch()
    keys = jax.random.split(jax.random.key(0), 16)
    targets = configured_objective(objective)(keys, batch, small.tables().positive_table)
    assert {leaf.shape for leaf in targets} == {(16, width)}
    newest = targets.position == batch.length[:, None] - 1
    assert bool(jnp.all(newest | ~targets.valid)) == (name in ("all_action", "next_action"))
    heavy = (targets.weight > 1) & newest
    assert bool(heavy.any()) == bool((targets.weight > 1).any()) == (name == "sasrec")
