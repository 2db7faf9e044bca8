"""The item table: whole or split by rows, float16 or int8."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from pinnerformer_jax.config import TrainingConfig
from pinnerformer_jax.training.item_table import BLOCK, ItemTable, capacity, place, quantised
from pinnerformer_jax.training.sharding import AXIS, make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import Tables, create
from pinnerformer_jax.training.step import make_train_step

ITEMS = 2 * 8 * BLOCK + 5  # the blocks of eight devices are not full
FEATURES = np.random.default_rng(0).standard_normal((ITEMS, 12)).astype(np.float16)


def looked_up(config: TrainingConfig, devices: int, ids: np.ndarray, *, common: bool) -> np.ndarray:
    mesh = make_mesh(devices)
    table = place(mesh, FEATURES, config)
    held = PartitionSpec(AXIS) if config.shard_items else PartitionSpec()
    asked, told = (PartitionSpec(), PartitionSpec()) if common else (PartitionSpec(AXIS), PartitionSpec(AXIS))
    rows = jax.shard_map(
        lambda table, ids: table.common(ids) if common else table[ids],
        mesh=mesh, in_specs=(held, asked), out_specs=told, check_vma=False,
    )  # fmt: skip
    return np.asarray(jax.jit(rows)(table, ids))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_split_rows_are_those_of_the_whole_table(devices, dtype):
    ids = np.random.default_rng(1).integers(0, ITEMS, (16, 5)).astype(np.int32)
    ids[0] = [0, ITEMS - 1, ITEMS - 1, BLOCK - 1, BLOCK]  # first, last, twice, either side of a border
    whole = TrainingConfig(item_dtype=dtype)
    split = dataclasses.replace(whole, shard_items=True)
    wanted = looked_up(whole, 1, ids, common=False)
    np.testing.assert_array_equal(looked_up(split, devices, ids, common=False), wanted)
    np.testing.assert_array_equal(looked_up(split, devices, ids[:, 0], common=True), wanted[:, 0])
    if dtype == "float16":
        np.testing.assert_array_equal(wanted, FEATURES[ids])


@pytest.mark.parametrize("askers", [1, 8])
def test_no_id_is_left_out_where_one_owner_is_asked_for_more_than_a_round_takes(askers):
    ids = np.random.default_rng(1).integers(0, ITEMS, (8, 2 * BLOCK)).astype(np.int32)
    of_one = [*range(BLOCK), *range(8 * BLOCK, 9 * BLOCK)]  # the first two blocks of the first device
    assert len(of_one) > capacity(len(of_one), 8)
    ids[:askers] = of_one
    split = TrainingConfig(shard_items=True)
    np.testing.assert_array_equal(looked_up(split, 8, ids, common=False), FEATURES[ids])


def test_each_device_holds_its_share_alone():
    table = place(make_mesh(8), FEATURES, TrainingConfig(shard_items=True, item_dtype="int8"))
    assert {shard.data.shape for shard in table.values.addressable_shards} == {(3 * BLOCK, 12)}
    assert {shard.data.shape for shard in table.scale.addressable_shards} == {(3 * BLOCK,)}


def test_quantised_rows_are_half_a_step_off_at_most():
    rows = FEATURES.astype(np.float32)
    rows[3] = 0.0
    rows[4] *= 1e-3
    values, scale = quantised(rows)
    assert values.dtype == np.int8
    assert np.abs(values[np.arange(ITEMS) != 3]).max(axis=1).tolist() == [127] * (ITEMS - 1)
    assert not values[3].any()
    assert scale[3] == 0
    assert (np.abs(values * scale[:, None] - rows) <= scale[:, None] / 2 + 1e-7).all()


def losses(shard_items: bool, item_dtype: str) -> list[float]:
    """Of three steps on eight devices, in length parts."""
    config = small.config(shard_items=shard_items, item_dtype=item_dtype)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=1))
    graphdef, state = create(config, small.SIZES)
    mesh, plain = make_mesh(8), small.tables()
    features = np.asarray(plain.item_features.values, np.float16)
    tables = Tables(place(mesh, features, config.training), *replicate(mesh, plain[1:]))
    state = replicate(mesh, state)
    step = make_train_step(config, graphdef, mesh, small.ITEMS, parts=(20, 12))
    found = []
    for seed in range(3):
        state, metrics = step(state, shard_batch(mesh, small.batch(seed)), tables)
        found.append(float(metrics["loss"]))
    return found


@pytest.mark.slow
def test_training_does_not_see_that_the_table_is_split_and_hardly_that_it_is_int8():
    exact, rounded = losses(False, "float16"), losses(False, "int8")
    assert losses(True, "int8") == rounded
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.01)


def test_it_stands_in_for_an_array():
    table = ItemTable(jnp.asarray(FEATURES))
    np.testing.assert_array_equal(table[jnp.array([[3, 4]])], FEATURES[[[3, 4]]])
    np.testing.assert_array_equal(table.common(jnp.array([5])), FEATURES[[5]])
