import builtins
import dataclasses
import json

import numpy as np
import pytest

from pinnerformer_jax.config import IndexConfig
from pinnerformer_jax.retrieval import exact, scann_index
from pinnerformer_jax.retrieval.scann_index import (
    ScannIndex,
    Settings,
    against_exact,
    recall,
    settings,
    training_sample,
)

pytest.importorskip("scann")


def clustered(items, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(40, 16))
    vectors = centres[rng.integers(40, size=items)] + 0.5 * rng.normal(size=(items, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def tree():
    vectors = clustered(4000)
    return vectors, ScannIndex.build(vectors, IndexConfig(leaves=60))


def test_small_catalogues_are_searched_by_brute_force_and_exactly():
    vectors, queries = clustered(500), clustered(20, seed=1)
    index = ScannIndex.build(vectors, IndexConfig())
    scores, rows = index.search(queries, 10)
    expected_scores, expected_rows = exact.search(queries, vectors, 10)
    assert index.settings.leaves == 0
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_tree_is_near_exact_and_both_are_timed(tree):
    vectors, index = tree
    facts = against_exact(index, vectors, clustered(200, seed=1), 20)
    assert index.settings.leaves == 60
    assert 0.97 < facts.recall <= 1
    assert facts.exact_qps > 0
    assert facts.scann_qps > 0


def test_recall_counts_what_is_missed(tree):
    vectors, index = tree
    narrow = ScannIndex(index.searchers, index.items, index.dim, "", index.settings)
    narrow.search = lambda queries, k: (None, np.full((len(queries), k), -1))
    assert against_exact(narrow, vectors, vectors[:5], 4).recall == 0
    narrow.search = lambda queries, k: (None, np.tile(np.arange(k), (len(queries), 1)))
    truth = exact.search(vectors[:5], vectors, 4)[1]
    assert against_exact(narrow, vectors, vectors[:5], 4).recall == (truth < 4).mean()


def test_rows_that_are_not_found_are_named():
    vectors = clustered(3000)
    config = IndexConfig(leaves=300, leaves_searched=1)
    scores, rows = ScannIndex.build(vectors, config).search(vectors[:4], 400)
    assert ((rows == -1) == np.isneginf(scores)).all()
    assert 0 < (rows == -1).sum() < rows.size
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in rows)


def test_more_neighbours_than_items():
    scores, rows = ScannIndex.build(clustered(3), IndexConfig()).search(clustered(2, seed=1), 5)
    assert rows.shape == scores.shape == (2, 5)
    assert (rows[:, 3:] == -1).all()
    assert sorted(rows[0, :3]) == [0, 1, 2]


def test_partitions_of_a_few_items_are_left_out():
    vectors = clustered(5)
    index = ScannIndex.build(vectors, IndexConfig(leaves=3))
    assert index.settings.leaves == 0
    assert sorted(index.search(vectors[:1], 5)[1][0].tolist()) == list(range(5))


def test_settings_follow_the_size():
    default = IndexConfig()
    assert settings(19_999, default).leaves == 0
    assert settings(40_000, default) == Settings(leaves=200, leaves_searched=20, reorder=200, soar=False)
    assert settings(1_000_000, default) == Settings(leaves=1000, leaves_searched=100, reorder=200, soar=True)
    assert settings(100, IndexConfig(leaves=9, leaves_searched=50)).leaves_searched == 9
    sizes = ((40_000, 200), (300_000, 548), (4_000_000, 2_000), (4_000_000, 50))
    assert [training_sample(*size) for size in sizes] == [40_000, 140_288, 512_000, 100_000]


def test_save_and_load_give_the_same_answers(tree, tmp_path):
    vectors, index = tree
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # over the one that stands
    assert [file.name for file in tmp_path.iterdir()] == ["index"]
    assert not list((tmp_path / "index").glob("*.pkl"))
    loaded = ScannIndex.load(tmp_path / "index", vectors)
    for mine, theirs in zip(index.search(vectors[:9], 20), loaded.search(vectors[:9], 20), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert (manifest["items"], manifest["dim"]) == vectors.shape
    assert loaded.settings == index.settings


def test_more_items_are_an_index_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(scann_index, "PART_ITEMS", 1500)
    vectors, queries = clustered(4000), clustered(100, seed=1)
    index = ScannIndex.build(vectors, IndexConfig(leaves=30, leaves_searched=25))
    assert (index.settings.parts, index.settings.leaves, index.settings.leaves_searched) == (3, 30, 25)
    scores, rows = index.search(queries, 20)
    nearest = exact.search(queries, vectors, 20)[1]
    assert recall(rows, nearest, len(vectors)) > 0.97
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    index.save(tmp_path / "index")
    assert {file.name for file in (tmp_path / "index").iterdir()} == {
        "manifest.json",
        "00000",
        "00001",
        "00002",
    }
    loaded = ScannIndex.load(tmp_path / "index", vectors)
    for mine, theirs in zip(index.search(queries, 20), loaded.search(queries, 20), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    (tmp_path / "index" / "00002" / "scann_docids.pkl").write_bytes(b"harm")
    with pytest.raises(ValueError, match=r"foreign files \['00002/scann_docids.pkl'\]"):
        ScannIndex.load(tmp_path / "index")


def test_as_many_partitions_are_searched_as_users_need():
    """Vectors with a large mean in common, as of a trained model; a user is unlike any item."""
    rng = np.random.default_rng(0)
    vectors = clustered(4000) + 0.7 * rng.normal(size=(4000, 16)).astype(np.float32) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    users = rng.normal(size=(600, 16)).astype(np.float32)
    default, config = ScannIndex.build(vectors, IndexConfig(leaves=100)), IndexConfig(leaves=100)
    index = ScannIndex.build(vectors, config, users[:256])
    nearest = exact.search(users[256:], vectors, 50)[1]
    found = [recall(each.search(users[256:], 50)[1], nearest, 4000) for each in (default, index)]
    assert default.settings.leaves_searched == 10
    assert index.settings.leaves_searched > 10
    assert found[0] < 0.95
    assert found[1] > 0.97
    named = ScannIndex.build(vectors, dataclasses.replace(config, leaves_searched=7), users)
    assert named.settings.leaves_searched == 7


def test_more_neighbours_than_a_part_has(monkeypatch):
    monkeypatch.setattr(scann_index, "PART_ITEMS", 4)
    vectors = clustered(10)
    rows = ScannIndex.build(vectors, IndexConfig()).search(vectors[:2], 12)[1]
    assert (rows[:, 10:] == -1).all()
    np.testing.assert_array_equal(np.sort(rows[:, :10]), np.tile(np.arange(10), (2, 1)))


def test_load_refuses_what_is_not_its_own(tree, tmp_path):
    vectors, index = tree
    path = tmp_path / "index"
    with pytest.raises(FileNotFoundError, match="no ScaNN index here"):
        ScannIndex.load(path)
    index.save(path)
    with pytest.raises(ValueError, match="other item vectors"):
        ScannIndex.load(path, vectors * 2)
    (path / "scann_docids.pkl").write_bytes(b"harm")
    with pytest.raises(ValueError, match=r"foreign files \['scann_docids.pkl'\]"):
        ScannIndex.load(path)
    (path / "scann_docids.pkl").unlink()
    with open(path / "dataset.npy", "r+b") as file:
        file.seek(500)
        file.write(b"x")
    with pytest.raises(ValueError, match=r"dataset.npy: altered"):
        ScannIndex.load(path)


def test_bad_vectors_are_refused():
    with pytest.raises(ValueError, match="0 item vectors"):
        ScannIndex.build(np.zeros((0, 4)), IndexConfig())
    with pytest.raises(ValueError, match="finite"):
        ScannIndex.build(np.full((2, 4), np.nan), IndexConfig())


def test_without_scann_the_error_says_what_to_do(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("scann"):
            raise ImportError("libscann: no AVX")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="exact search works without it"):
        ScannIndex.build(clustered(5), IndexConfig())
