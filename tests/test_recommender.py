"""From an id to items."""

import dataclasses
import json
import shutil
import threading

import numpy as np
import pyarrow as pa
import pytest
from daily_run import ITEMS, ROWS, TRAINED, day, make_run, of_days, publish, write_log

from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.retrieval.scann_index import ScannIndex
from pinnerformer_jax.serving import bulk, snapshot, state
from pinnerformer_jax.serving.manifest import read_manifest, write_manifest
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.store import publish_users
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.serving.tombstones import add_tombstones

USER = "u001"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, workdirs of two models, snapshots with a state of the first)."""
    folder = tmp_path_factory.mktemp("world")
    runs = [make_run(folder, ROWS, seed) for seed in (0, 1)]
    publish(runs[0], folder / "snapshots", date=day(TRAINED - 1))
    return folder, runs, folder / "snapshots"


@pytest.fixture
def snapshots(world, tmp_path):
    """A copy to write to."""
    return shutil.copytree(world[2], tmp_path / "snapshots")


def test_the_nearest_items_of_a_user(world):
    snapshots = world[2]
    found = Recommender.open(snapshots).recommend(USER, 5)
    folder = snapshots / state.current(snapshots)
    users, items = (snapshot.read_parquet(folder / f"{name}.parquet") for name in ("users", "items"))
    vector = snapshot.vectors_of(users)[users["user_id"].to_pylist().index(USER)].astype(np.float32)
    scores = snapshot.vectors_of(items) @ vector
    best = np.argsort(-scores)[:5]
    assert not found.cold
    assert (found.model_version, found.date) == (snapshot.version_of(items), day(TRAINED - 1))
    assert [item.id for item in found.items] == [items["item_id"][row].as_py() for row in best]
    assert [item.title for item in found.items] == [f"Item {item.id[1:]}" for item in found.items]
    np.testing.assert_allclose([item.score for item in found.items], scores[best], atol=1e-6)


def test_seen_items_are_left_out(world):
    seen = {row["item"] for row in of_days(ROWS, 0, TRAINED) if row["user"] == USER}
    assert 0 < len(seen) < ITEMS
    recommender = Recommender.open(world[2])
    every = [item.id for item in recommender.recommend(USER, ITEMS).items]
    assert len(every) == ITEMS
    unseen = [item.id for item in recommender.recommend(USER, ITEMS, exclude_seen=True).items]
    assert unseen == [item for item in every if item not in seen]
    first = recommender.recommend(USER, 1, exclude_seen=True).items
    assert [item.id for item in first] == unseen[:1]


def test_seen_items_are_left_out_where_the_evaluation_found_that_better(world, snapshots):
    name = state.current(snapshots)
    manifest = read_manifest(snapshots, name)
    (snapshots / name / "manifest.json").unlink()
    write_manifest(snapshots / name, dataclasses.replace(manifest, priors=Priors(hide_seen=True)))
    before, after = Recommender.open(world[2]), Recommender.open(snapshots)
    for asked, wanted in ((None, True), (True, True), (False, False)):
        found = after.recommend(USER, ITEMS, exclude_seen=asked)
        assert found.items == before.recommend(USER, ITEMS, exclude_seen=wanted).items
        assert found.formula.endswith("of items that the user did not have") == wanted
    file = snapshots / "recs.jsonl"
    bulk.write_recommendations(after, pa.array([USER]), ITEMS, file)
    written = [json.loads(line)["item_id"] for line in file.read_text().splitlines()]
    assert written == [item.id for item in after.recommend(USER, ITEMS).items]


def test_a_cold_user_gets_what_is_popular(world):
    snapshots = world[2]
    found = Recommender.open(snapshots).recommend("nobody", 4, exclude_seen=True)
    assert found.cold
    folder = snapshots / state.current(snapshots)
    ids = snapshot.read_parquet(folder / "items.parquet")["item_id"].to_pylist()
    assert [item.id for item in found.items] == [ids[row] for row in np.load(folder / "popular.npy")[:4]]
    assert all(np.isnan(item.score) for item in found.items)


def test_vectors_may_come_from_a_store(world):
    class Vectors:
        def __init__(self, model_version):
            self.model_version = model_version

        def get(self, user_id):
            return np.eye(8, dtype=np.float32)[0] if user_id == "stored" else None

    class Store:
        of = Vectors

        def holds(self, model_version):
            return True

    recommender = Recommender.open(world[2], Store())
    assert not recommender.recommend("stored").cold
    assert recommender.recommend(USER).cold
    Store.of = lambda self, _: Vectors("other")
    with pytest.raises(ValueError, match=r"items.parquet of model version \w{12}, user vectors of other"):
        Recommender.open(world[2], Store())


def test_a_new_model_is_taken_up_when_the_store_has_it(world, snapshots, tmp_path):
    """The pointer flips first; until the store follows, the old items go with the old vectors."""
    place = open_store(f"lmdb:{tmp_path / 'store'}")
    publish_users(place, snapshots, state.current(snapshots))
    recommender = Recommender.open(snapshots, place)
    before = recommender.recommend(USER)
    assert not before.cold
    name = publish(world[1][1], snapshots)
    assert recommender.recommend(USER) == before
    publish_users(place, snapshots, name)
    after = recommender.recommend(USER)
    assert (after.cold, after.model_version) == (False, place.live())
    assert after.model_version != before.model_version
    want = Recommender.open(snapshots).recommend(USER)
    assert [item.id for item in after.items] == [item.id for item in want.items]


def test_a_flip_is_taken_up_and_threads_see_one_state_each(world, tmp_path, snapshots):
    runs = world[1]
    recommender = Recommender.open(snapshots)
    wanted = {}
    stop, failures, seen = threading.Event(), [], set()

    def ask():
        while not stop.is_set():
            try:
                found = recommender.recommend(USER, 5)
                items = [(item.id, item.score) for item in found.items]
                if wanted.setdefault((found.model_version, found.date), items) != items:
                    failures.append(found)
                seen.add((found.model_version, found.date))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    log = write_log(tmp_path, ROWS, TRAINED)
    publish(runs[0], snapshots, date=day(TRAINED), events=(log,))
    publish(runs[1], snapshots)
    state.rollback(snapshots)
    deadline = threading.Timer(20, stop.set)
    deadline.start()
    while not stop.is_set() and recommender.refresh().name != state.current(snapshots):
        pass
    stop.set()
    deadline.cancel()
    for thread in threads:
        thread.join()
    assert not failures
    assert recommender.refresh().name == state.current(snapshots)
    assert recommender.recommend(USER).date == day(TRAINED)


def test_a_damaged_new_state_is_not_taken_up(world, tmp_path, snapshots, caplog):
    recommender = Recommender.open(snapshots)
    before = recommender.recommend(USER)
    log = write_log(tmp_path, ROWS, TRAINED)
    name = publish(world[1][0], snapshots, date=day(TRAINED), events=(log,))
    file = snapshots / name / "items.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    for _ in range(3):
        assert recommender.recommend(USER) == before
    assert [record.message.count("items.parquet: missing or not") for record in caplog.records] == [1]
    with pytest.raises(ValueError, match=r"items.parquet: missing or not"):
        Recommender.open(snapshots)
    file.write_bytes(whole)
    state.publish_state(snapshots, name)
    assert recommender.recommend(USER).date == day(TRAINED)


@pytest.mark.parametrize("part", ["users.parquet", "items.parquet", "index"])
def test_parts_of_two_models_are_refused(world, snapshots, tmp_path, part):
    """Someone copies a part of another model's state, manifest mended."""
    old = snapshots / state.current(snapshots)
    new = snapshots / publish(world[1][1], snapshots)
    versions = [
        read_manifest(snapshots, str(path.relative_to(snapshots))).model_version for path in (old, new)
    ]
    if part == "index":
        shutil.rmtree(new / part)
        shutil.copytree(old / part, new / part)
    else:
        shutil.copy(old / part, new / part)
    manifest = read_manifest(snapshots, str(new.relative_to(snapshots)))
    (new / "manifest.json").unlink()
    write_manifest(new, manifest)
    with pytest.raises(ValueError, match="of model version") as refused:
        Recommender.open(snapshots)
    assert all(version in str(refused.value) for version in versions)


def test_deleted_users_are_cold_even_after_a_roll_back(world, snapshots, tmp_path):
    (tmp_path / "gone.txt").write_text(USER)
    name = publish(world[1][0], snapshots, tombstones=tmp_path / "gone.txt")
    assert Recommender.open(snapshots).recommend(USER).cold
    state.rollback(snapshots)
    assert state.current(snapshots) != name
    assert Recommender.open(snapshots).recommend(USER).cold


def test_who_is_deleted_while_it_is_open_is_cold_at_once(world, snapshots, tmp_path):
    recommender = Recommender.open(snapshots)
    assert not recommender.recommend(USER).cold
    add_tombstones(snapshots, pa.array([USER]))
    found = recommender.recommend(USER, ITEMS, exclude_seen=True)
    assert found.cold
    assert len(found.items) == ITEMS  # what they had seen is not asked for any more


def test_a_state_that_was_removed_is_served_on(snapshots):
    recommender = Recommender.open(snapshots)
    before = recommender.recommend(USER, 5, exclude_seen=True)
    shutil.rmtree(snapshots / state.current(snapshots))
    assert recommender.recommend(USER, 5, exclude_seen=True) == before
    with pytest.raises(FileNotFoundError, match=r"CURRENT: names .*, which is not there; roll"):
        Recommender.open(snapshots)


def test_a_state_without_users_serves_what_is_popular(world, snapshots, tmp_path):
    everyone = snapshot.read_parquet(snapshots / state.current(snapshots) / "users.parquet")[
        "user_id"
    ].to_pylist()
    (tmp_path / "gone.txt").write_text("\n".join(everyone))
    publish(world[1][0], snapshots, tombstones=tmp_path / "gone.txt", store=f"lmdb:{tmp_path / 'store'}")
    assert Recommender.open(snapshots).recommend(USER, 3).cold


def test_where_scann_does_not_load_search_is_exact(snapshots, monkeypatch):
    with_index = Recommender.open(snapshots).recommend(USER, 5)

    def load(*_):
        raise ImportError("no AVX here")

    monkeypatch.setattr(ScannIndex, "load", load)
    without = Recommender.open(snapshots).recommend(USER, 5)
    assert [item.id for item in without.items] == [item.id for item in with_index.items]


def test_without_a_pointer_the_old_state_serves_on(snapshots):
    recommender = Recommender.open(snapshots)
    before = recommender.recommend(USER)
    (snapshots / "CURRENT").unlink()
    assert recommender.recommend(USER) == before


def test_nothing_published_and_wrong_k(world, tmp_path):
    with pytest.raises(FileNotFoundError, match="CURRENT: nothing was published here; run python -m"):
        Recommender.open(tmp_path)
    with pytest.raises(ValueError, match="k = 0: must be at least 1"):
        Recommender.open(world[2]).recommend(USER, 0)


def test_without_an_index_search_is_exact(world, snapshots):
    with_index = Recommender.open(snapshots).recommend(USER, 5)
    name = state.current(snapshots)
    manifest = read_manifest(snapshots, name)
    shutil.rmtree(snapshots / name / "index")
    (snapshots / name / "manifest.json").unlink()
    write_manifest(snapshots / name, manifest)
    without = Recommender.open(snapshots).recommend(USER, 5)
    assert [item.id for item in without.items] == [item.id for item in with_index.items]
