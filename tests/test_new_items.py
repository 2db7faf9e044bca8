"""Items that came after the training: recommended, and part of histories, from the same night on."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_run import FIRST, ITEMS, ROWS, TRAINED, day, make_run, of_days, publish, write_log
from logs import write_items
from prepared import write_prepared

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.serving import new_items, snapshot, state
from pinnerformer_jax.serving.manifest import read_manifest
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.trained_model import TrainedModel

NEW = ["i20", "i21"]  # write_items draws row by row: the vectors before them are those of the run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), ROWS)


@pytest.fixture
def snapshots(tmp_path, workdir):
    publish(workdir, tmp_path / "snapshots", date=day(TRAINED - 1), dtype="float32")
    return tmp_path / "snapshots"


def night(workdir, snapshots, number=TRAINED, **job):
    """A day on which u000 touches new items and nothing else."""
    second = FIRST + number * DAY
    rows = [row for row in of_days(ROWS, number, number + 1) if row["user"] != "u000"]
    like = {"user": "u000", "action": "like", "surface": "home", "duration": 1.0}
    rows += [like | {"item": item, "time": second + k} for k, item in enumerate(NEW)]
    log = write_log(snapshots.parent, rows, number)
    return publish(workdir, snapshots, date=day(number), dtype="float32", events=(log,), **job)


def table_of(snapshots, file):
    return snapshot.read_parquet(snapshots / state.current(snapshots) / file)


def vector_of(snapshots, user):
    users = snapshot.SnapshotVectors.of(table_of(snapshots, "users.parquet"))
    return users.get(user)


def test_they_are_recommended_and_count_in_histories(workdir, snapshots):
    before = table_of(snapshots, "items.parquet")
    without = night(workdir, snapshots)
    assert read_manifest(snapshots, without).counts.log.rejected["item without a feature vector"] == 2
    blind = vector_of(snapshots, "u000")

    table = write_items(snapshots.parent / "more.parquet", ITEMS + 2)
    manifest = read_manifest(snapshots, night(workdir, snapshots, items=Path(table)))
    assert (manifest.counts.items.new_items, manifest.counts.items.items_after_training) == (2, 2)
    assert sum(manifest.counts.log.rejected.values()) == 0
    items = table_of(snapshots, "items.parquet")
    assert items[: before.num_rows].equals(before)
    assert items["item_id"].to_pylist()[-2:] == NEW
    assert items["title"].to_pylist()[-2:] == ["Item 20", "Item 21"]

    model = TrainedModel.load(workdir, "best")
    features = np.asarray(pq.read_table(table)["vector"].to_pylist(), np.float32)[ITEMS:]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    embedder = Embedder(
        model.graphdef, model.params, np.concatenate([model.catalog.features, features.astype(np.float16)])
    )
    np.testing.assert_allclose(snapshot.vectors_of(items)[-2:], embedder.items()[-2:], atol=1e-6)
    seeing = vector_of(snapshots, "u000")
    assert np.abs(seeing - blind).max() > 1e-3

    popular = np.load(snapshots / state.current(snapshots) / "popular.npy")
    assert sorted(popular.tolist()) == list(range(ITEMS + 2))
    recommender = Recommender.open(snapshots)
    everything = recommender.recommend("u000", k=ITEMS + 2).items
    assert {item.id for item in everything} >= set(NEW)
    assert not set(NEW) & {item.id for item in recommender.recommend("u000", ITEMS, exclude_seen=True).items}


@pytest.mark.slow
def test_they_stay_and_are_added_once(workdir, snapshots):
    table = write_items(snapshots.parent / "more.parquet", ITEMS + 1)
    night(workdir, snapshots, items=Path(table))
    first = table_of(snapshots, "items.parquet")
    more = write_items(snapshots.parent / "yet-more.parquet", ITEMS + 2)
    manifest = read_manifest(snapshots, night(workdir, snapshots, TRAINED + 1, items=Path(more)))
    assert (manifest.counts.items.new_items, manifest.counts.items.items_after_training) == (1, 2)
    second = table_of(snapshots, "items.parquet")
    assert second["item_id"].to_pylist()[-2:] == NEW
    assert second[: first.num_rows].equals(first)
    manifest = read_manifest(snapshots, night(workdir, snapshots, TRAINED + 2))
    assert (manifest.counts.items.new_items, manifest.counts.items.items_after_training) == (0, 2)
    assert table_of(snapshots, "items.parquet").equals(second)


@pytest.mark.slow
def test_a_new_model_of_the_same_data_keeps_them_and_of_others_does_not(workdir, snapshots, tmp_path):
    table = write_items(snapshots.parent / "more.parquet", ITEMS + 2)
    night(workdir, snapshots, items=Path(table))
    first = table_of(snapshots, "items.parquet")
    other = make_run(workdir.parent, ROWS, seed=7)
    publish(other, snapshots, date=day(TRAINED), dtype="float32")
    again = table_of(snapshots, "items.parquet")
    assert again["item_id"].equals(first["item_id"])
    assert not np.allclose(snapshot.vectors_of(again), snapshot.vectors_of(first))

    (tmp_path / "other").mkdir()
    name = publish(make_run(tmp_path / "other", ROWS[:400]), snapshots, date=day(TRAINED), dtype="float32")
    assert len(table_of(snapshots, "items.parquet")) == ITEMS
    assert not (snapshots / name / new_items.FILE).exists()
    assert read_manifest(snapshots, name).counts.timelines.without_item == 2  # u000's


def test_a_prepared_folder_brings_the_items_that_have_a_vector(workdir, tmp_path):
    catalog = Catalog.open(TrainedModel.load(workdir, "best").timelines.path)
    features = np.concatenate([catalog.features, np.eye(4, dtype=np.float16)[:3]])
    features[-1] = 0
    ids = [*catalog.item_ids, "a", "b", "c"]
    titles = [None] * len(ids)
    source = write_prepared(
        tmp_path / "p", {"u": [(0, 1, 1, FIRST, 1.0)]}, FIRST, item_ids=ids, titles=titles, features=features
    )
    before = new_items.stored_items(None, catalog)
    found = new_items.added_items(source, ItemsConfig(), catalog, before)
    assert found["item_id"].to_pylist() == found["title"].to_pylist() == ["a", "b"]
    np.testing.assert_array_equal(new_items.features_of(found), np.eye(4, dtype=np.float16)[:2])
    assert new_items.added_items(source, ItemsConfig(), catalog, found).equals(found)


def test_vectors_that_cannot_be_the_runs_are_refused(workdir, tmp_path):
    catalog = Catalog.open(TrainedModel.load(workdir, "best").timelines.path)
    given = ItemsConfig(table="of the run", vector="vector", title="title")
    before = new_items.stored_items(None, catalog)

    def refused(match, **columns):
        table = tmp_path / "items.parquet"
        write_items(table, ITEMS + 2, **columns)
        with pytest.raises(ValueError, match=match):
            new_items.added_items(table, given, catalog, before)

    turned = np.random.default_rng(1).normal(size=(ITEMS + 2, 4)).astype(np.float32)[:, [1, 2, 3, 0]]
    refused("are not the run's", vector=list(turned))
    refused("vectors of 5 numbers, the run was trained on 4", vector=list(np.ones((ITEMS + 2, 5))))
    refused("has item 'x' more than once", item=["x"] * (ITEMS + 2))
    with pytest.raises(ValueError, match="built without a half of text"):
        new_items.added_items(
            tmp_path / "items.parquet", dataclasses.replace(given, vector=""), catalog, before
        )


COLOURS = ("red", "green", "blue", "black")


@pytest.mark.slow
def test_a_text_is_enough_where_vectors_were_built(tmp_path):
    """Users buy items of one colour each; a new item of a colour gets a vector like that of its others."""
    rows = [row | {"item": f"i{4 * (k % 15) + int(row['user'][1:]) % 4}"} for k, row in enumerate(ROWS)]
    titles = [f"{COLOURS[k % 4]} hat {k}" for k in range(ITEMS * 3)]
    known = write_items(tmp_path / "known.parquet", ITEMS * 3, title=titles)
    run = make_run(tmp_path, rows, items=ItemsConfig(table=known, title="title", built_dim=16))
    publish(run, tmp_path / "snapshots", date=day(TRAINED - 1), dtype="float32")

    titles += ["blue hat 99", "sofa"]
    more = write_items(tmp_path / "more.parquet", ITEMS * 3 + 2, title=titles)
    publish(run, tmp_path / "snapshots", date=day(TRAINED), dtype="float32", items=Path(more))
    new = table_of(tmp_path / "snapshots", new_items.FILE)
    assert new["item_id"].to_pylist() == ["i60"]  # no text of the training has the word sofa
    assert new["title"].to_pylist() == ["blue hat 99"]

    catalog = Catalog.open(TrainedModel.load(run, "best").timelines.path)
    assert catalog.text_arrays["map"].shape == (9, 8)
    features = new_items.features_of(new)[0].astype(np.float32)
    cosines = catalog.features[:, :8].astype(np.float32) @ features[:8]  # of co-occurrence
    numbers = [int(item[1:]) for item in catalog.item_ids]
    assert {numbers[row] % 4 for row in np.argsort(-cosines)[:10]} == {2}

    before = new_items.stored_items(None, catalog)
    nothing = write_items(tmp_path / "nothing.parquet", 1, title=["sofa"])
    with pytest.raises(ValueError, match="no item has a word"):
        new_items.added_items(Path(nothing), ItemsConfig(table="x", title="title"), catalog, before)


def test_ids_of_another_type_are_refused(workdir, tmp_path):
    catalog = Catalog.open(TrainedModel.load(workdir, "best").timelines.path)
    ids = pa.array([1, 2], pa.int64())
    source = write_prepared(
        tmp_path / "p", {"u": [(0, 1, 1, FIRST, 1.0)]}, FIRST, item_ids=ids.to_pylist(),
        features=np.eye(4, dtype=np.float16)[:2],
    )  # fmt: skip
    with pytest.raises(ValueError, match="item ids of type int64, in the data they are string"):
        new_items.added_items(source, ItemsConfig(), catalog, new_items.stored_items(None, catalog))


@pytest.mark.parametrize("name", ["nothing.parquet", "tombstones"])
def test_neither_a_table_nor_a_prepared_folder(workdir, snapshots, name):
    (snapshots / "tombstones").mkdir()
    with pytest.raises(FileNotFoundError, match="neither an item table nor a prepared folder"):
        publish(workdir, snapshots, items=snapshots / name)
