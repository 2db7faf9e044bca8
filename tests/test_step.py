import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from pinnerformer_jax.data.contracts import part_bounds
from pinnerformer_jax.training import state as training_state
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.sharding import AXIS, interleave, make_mesh, replicate, shard_batch
from pinnerformer_jax.training.step import (
    device_step,
    make_train_step,
    make_validation_step,
)

CORPUS = 50


def run(config, devices: int, steps: int):
    """(state, metrics of each step) after some steps over so many devices."""
    mesh = make_mesh(devices)
    graphdef, state = training_state.create(config, small.SIZES)
    step = make_train_step(config, graphdef, mesh, CORPUS)
    state, tables = replicate(mesh, (state, small.tables()))
    metrics = []
    for k in range(steps):
        state, measured = step(state, shard_batch(mesh, small.batch(seed=k)), tables)
        metrics.append(jax.device_get(measured))
    assert step._cache_size() == 1, "the step was traced again"
    return jax.device_get(state), metrics


def assert_close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), got, wanted)


def gradients(state):
    """Adam's running mean of the gradients: parameters would not do, as Adam blows the rounding of a
    gradient that is zero (the bias of the keys) up to a whole step."""
    return optax.tree.get(state.opt_state, "mu")


@pytest.fixture(scope="module")
def one_device():
    return run(small.config(), 1, 3)


def test_eight_devices_equal_one_with_the_same_global_batch(one_device):
    state, metrics = run(small.config(), 8, 3)
    assert_close(metrics, one_device[1])
    assert_close(gradients(state), gradients(one_device[0]))
    np.testing.assert_array_equal(state.sketch.counts, one_device[0].sketch.counts)


@pytest.mark.slow
def test_pmap_of_the_same_function_gives_the_same(one_device):
    config = small.config()
    graphdef, state = training_state.create(config, small.SIZES)
    step = jax.pmap(
        partial(device_step, config, graphdef, CORPUS), axis_name=AXIS, in_axes=(None, 0, None), out_axes=None
    )
    for k in range(3):
        batch = jax.tree.map(lambda v: interleave(v, 8).reshape(8, -1, *v.shape[1:]), small.batch(seed=k))
        state, metrics = step(state, batch, small.tables())
        assert_close(metrics, one_device[1][k])
    assert_close(gradients(jax.device_get(state)), gradients(one_device[0]))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_sorted_batch_in_parts_is_the_same_batch(devices):
    config, mesh = small.config(), make_mesh(devices)
    whole = small.batch()
    order = np.argsort(-whole.length, kind="stable")
    whole = jax.tree.map(lambda values: np.asarray(values)[order], whole)
    bounds = part_bounds(len(order) // devices, 4)[:-1]
    parts = tuple(int(whole.length[devices * bound]) for bound in bounds)
    assert parts[-1] < parts[0] <= config.model.max_length
    results = []
    for lengths in ((), parts):
        graphdef, state = training_state.create(config, small.SIZES)
        state, tables = replicate(mesh, (state, small.tables()))
        step = make_train_step(config, graphdef, mesh, CORPUS, lengths)
        results.append(jax.device_get(step(state, shard_batch(mesh, whole), tables)))
    (state, metrics), (state_in_parts, metrics_in_parts) = results
    assert_close(metrics_in_parts, metrics)
    assert_close(gradients(state_in_parts), gradients(state))


@pytest.mark.slow
def test_the_same_batch_again_and_again_is_learned():
    config = small.config(learning_rate=1e-2)
    mesh = make_mesh(1)
    graphdef, state = training_state.create(config, small.SIZES)
    step = make_train_step(config, graphdef, mesh, CORPUS)
    state, batch, tables = replicate(mesh, (state, small.batch(), small.tables()))
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch, tables)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_validation_updates_nothing_and_equals_the_training_loss(one_device):
    config = small.config()
    mesh = make_mesh(8)
    graphdef, state = training_state.create(config, small.SIZES)
    validate = make_validation_step(config, graphdef, mesh, CORPUS)
    before, tables = replicate(mesh, (state, small.tables()))
    metrics = validate(before, shard_batch(mesh, small.batch(seed=0)), tables)
    np.testing.assert_allclose(metrics["loss"], one_device[1][0]["loss"], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before.params, state.params)


@pytest.mark.slow
def test_no_positive_of_a_user_is_their_negative_though_they_stand_in_the_batch_twice():
    config = dataclasses.replace(
        small.config(), objective=dataclasses.replace(small.config().objective, random_negatives=0)
    )
    mesh = make_mesh(8)
    graphdef, state = training_state.create(config, small.SIZES)
    validate = make_validation_step(config, graphdef, mesh, CORPUS)
    state, tables = replicate(mesh, (state, small.tables()))
    batch = small.batch(seed=0)
    one_user = batch._replace(user=jnp.zeros_like(batch.user))
    losses = [float(validate(state, shard_batch(mesh, b), tables)["loss"]) for b in (batch, one_user)]
    assert losses[0] > 1
    assert losses[1] == pytest.approx(0, abs=1e-6)  # nothing is left to tell the positive from


@pytest.mark.slow
def test_another_seed_is_other_draws_of_the_same_program():
    losses, programs = [], []
    for seed in (0, 1):
        config, mesh = small.config(seed=seed), make_mesh(1)
        graphdef, _ = jax.eval_shape(lambda config=config: training_state.create(config, small.SIZES))
        validate = make_validation_step(config, graphdef, mesh, CORPUS)
        state = training_state.create(small.config(), small.SIZES)[1]
        tables = small.tables()._replace(seed=np.uint32(seed))
        lowered = validate.lower(*replicate(mesh, (state, small.batch(), tables)))
        programs.append(lowered.as_text())
        losses.append(float(lowered.compile()(*replicate(mesh, (state, small.batch(), tables)))["loss"]))
    assert programs[0] == programs[1]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_padding_rows_count_for_nothing():
    """A batch whose second half is padding has the loss and the gradient of its first half."""
    config = dataclasses.replace(
        small.config(),
        objective=dataclasses.replace(small.config().objective, in_batch_negatives=0, logq=False),
    )
    mesh = make_mesh(1)
    graphdef, state = training_state.create(config, small.SIZES)
    validate = make_validation_step(config, graphdef, mesh, CORPUS)
    whole = small.batch()
    empty = whole._replace(length=whole.length.at[8:].set(0), future_count=whole.future_count.at[8:].set(0))
    half = jax.tree.map(lambda v: v[:8], whole)
    got, wanted = (validate(state, batch, small.tables()) for batch in (empty, half))
    assert float(got["users"]) == float(wanted["users"]) <= 8
    np.testing.assert_allclose(got["loss"], wanted["loss"], rtol=1e-6)


def with_objective(**changes):
    """A model of one block, as every objective is compiled anew."""
    config = small.config()
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, layers=1),
        objective=dataclasses.replace(config.objective, **changes),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"name": "sasrec", "pool": "separate", "refined_logq": True},
        {"name": "sasrec_plain", "loss": "binary_cross_entropy"},
    ],
    ids=["summed softmaxes", "binary cross-entropy"],
)
def test_other_losses_are_the_same_over_eight_devices(changes):
    config = with_objective(**changes)
    one, eight = run(config, 1, 1), run(config, 8, 1)
    assert_close(eight[1], one[1])
    assert_close(gradients(eight[0]), gradients(one[0]))
    assert eight[1][0]["negatives"] > 0
    assert optax.tree.norm(gradients(one[0])) > 0


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_remembered():
    config = small.config()
    mesh = make_mesh(1)
    graphdef, state = training_state.create(config, small.SIZES)
    step = make_train_step(config, graphdef, mesh, CORPUS)
    tables = small.tables()
    for k in range(4):
        bad = k == 1
        features = ItemTable(tables.item_features.values * (jnp.nan if bad else 1.0))
        state, metrics = step(state, small.batch(seed=k), tables._replace(item_features=features))
        assert int(metrics["failed_step"]) == (-1 if k == 0 else 1)


def test_gradients_reach_every_parameter():
    config = small.config(weight_decay=0.0)
    before = jax.device_get(training_state.create(config, small.SIZES)[1])
    after, _ = run(config, 1, 3)
    unmoved = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True
        )
        if np.array_equal(a, b)
    ]
    assert unmoved == []


@pytest.mark.slow
def test_bfloat16_trains_with_float32_parameters():
    config = small.config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype="bfloat16"))
    state, metrics = run(config, 1, 2)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert np.isfinite(metrics[-1]["loss"])


def test_a_batch_that_does_not_divide_names_the_setting():
    with pytest.raises(ValueError, match=r"training.batch_size = 16: must be a multiple of the 3 devices"):
        shard_batch(make_mesh(3), small.batch())
