import jax
import numpy as np
import pytest
import small
import small_run

from pinnerformer_jax.bench.timing import TraceCount
from pinnerformer_jax.config import TrainingConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import histories_at_split, histories_up_to
from pinnerformer_jax.model import inference
from pinnerformer_jax.model.inference import Embedder, embed_users
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training import state as training_state
from pinnerformer_jax.training.item_table import split_over_own


@pytest.mark.slow
def test_embeds_the_newest_action_and_every_item(monkeypatch):
    monkeypatch.setattr(inference, "ITEM_CHUNK", 25)  # 60 items: the last chunk is not full
    graphdef, state = training_state.create(small.config(), small.SIZES)
    tables, batch = small.tables(), jax.tree.map(np.asarray, small.batch())
    embedder = Embedder(graphdef, state.params, np.asarray(tables.item_features.values))
    model = PinnerFormer(small.config(), small.SIZES)

    wanted = model.embed_users(small.batch().history, small.batch().length, tables.item_features)
    np.testing.assert_allclose(embedder.users(batch.history, batch.length), wanted, atol=1e-5)
    np.testing.assert_allclose(embedder.items(), model.embed_items(tables.item_features.values), atol=1e-5)


def test_several_devices_hold_the_catalogue_and_embed_as_one():
    graphdef, state = training_state.create(small.config(), small.SIZES)
    features = np.asarray(small.tables().item_features.values, np.float16)
    batch = jax.tree.map(np.asarray, small.batch(users=21))  # not a multiple of the devices
    split = split_over_own(features, TrainingConfig(shard_items=True))
    assert len(split.values.addressable_shards) == 8
    assert split_over_own(features, TrainingConfig()) is None
    found, wanted = (
        Embedder(graphdef, state.params, features, table).users(batch.history, batch.length)
        for table in (split, None)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_length_buckets_change_nothing_but_the_order_of_work():
    graphdef, state = training_state.create(small.config(), small.SIZES)
    embedder = Embedder(graphdef, state.params, np.asarray(small.tables().item_features.values))
    batch = jax.tree.map(np.asarray, small.batch(users=40))
    read_widths = []

    def read(users, width):
        read_widths.append((len(users), width))
        assert batch.length[users].max() <= width
        return type(batch.history)(*(column[users, :width] for column in batch.history)), batch.length[users]

    found = embedder.users_by_length(read, batch.length, max_length=20, batch_size=8)
    np.testing.assert_allclose(found, embedder.users(batch.history, batch.length), atol=1e-5)
    assert set(read_widths) == {(8, 16), (8, 20)}
    short = np.count_nonzero(batch.length <= 16)
    assert len(read_widths) == -(-short // 8) + -(-(40 - short) // 8)


def test_the_rest_of_a_bucket_is_a_smaller_batch(monkeypatch):
    monkeypatch.setattr(inference, "FEWEST", 4)
    graphdef, state = training_state.create(small.config(), small.SIZES)
    embedder = Embedder(graphdef, state.params, np.asarray(small.tables().item_features.values))
    monkeypatch.setattr(embedder, "users", lambda history, length: np.ones((len(length), 1)))
    sizes = []

    def read(users, width):
        sizes.append(len(users))
        return None, users

    for count in (1, 4, 5, 8, 9, 17, 33):
        sizes.clear()
        found = embedder.users_by_length(read, np.ones(count, int), max_length=20, batch_size=16)
        assert found.shape == (count, 1)
        assert sizes == {1: [4], 4: [4], 5: [8], 8: [8], 9: [16], 17: [16, 4], 33: [16, 16, 4]}[count]


def test_the_longest_bucket_takes_who_is_longer_than_T():
    graphdef, state = training_state.create(small.config(), small.SIZES)
    embedder = Embedder(graphdef, state.params, np.asarray(small.tables().item_features.values))
    batch = jax.tree.map(np.asarray, small.batch())
    length = np.where(np.arange(16) == 3, 1000, 1)

    def read(users, width):
        clipped = np.minimum(length[users], width).astype(np.int32)
        return type(batch.history)(*(column[users, :width] for column in batch.history)), clipped

    found = embedder.users_by_length(read, length, max_length=20, batch_size=4)
    wanted = embedder.users(batch.history, np.minimum(length, 20).astype(np.int32))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="no user to embed"):
        embedder.users_by_length(read, np.zeros(0, int), max_length=20, batch_size=4)


def test_an_embedder_of_the_same_structure_compiles_nothing():
    graphdef, state = training_state.create(small.config(), small.SIZES)
    batch = jax.tree.map(np.asarray, small.batch())
    features = np.asarray(small.tables().item_features.values)
    first = Embedder(graphdef, state.params, features).users(batch.history, batch.length)
    graphdef, state = training_state.create(small.config(), small.SIZES)
    with TraceCount() as count:
        second = Embedder(graphdef, state.params, features).users(batch.history, batch.length)
    assert count.traces == 0
    np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(embedder of a model as it was born, timelines)"""
    folder = small_run.write_data(tmp_path_factory.mktemp("data") / "prepared")
    graphdef, state = training_state.create(small_run.config(folder), Sizes(8, 3, 3))
    return Embedder(graphdef, state.params, Catalog.open(folder).features), Timelines.open(folder)


def test_users_are_embedded_each_for_itself(prepared):
    users = np.arange(1, 14, 2)
    by_three = embed_users(*prepared, users, 8, 3)
    alone = [embed_users(*prepared, users[k : k + 1], 8, 1)[0] for k in range(7)]
    np.testing.assert_allclose(by_three, alone, atol=1e-5)
    assert np.unique(by_three.round(4), axis=0).shape[0] == 7


def test_users_are_embedded_as_of_the_split_or_of_an_event(prepared):
    embedder, timelines = prepared
    users = np.arange(40)
    cut = np.concatenate([shard.cut for shard in timelines.shards])
    padded = embedder.users(*histories_at_split(timelines, users, 8))
    np.testing.assert_allclose(embed_users(embedder, timelines, users, 8, 16), padded, atol=1e-5)
    counts = np.maximum(cut // 2, 1)
    padded = embedder.users(*histories_up_to(timelines, users, counts, 8))
    found = embed_users(embedder, timelines, users, 8, 16, counts)
    np.testing.assert_allclose(found, padded, atol=1e-5)
    with pytest.raises(ValueError, match="1 of 2 users to embed have no event; leave them out"):
        embed_users(embedder, timelines, users[:2], 8, 16, np.array([3, 0]))
