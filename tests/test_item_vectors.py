"""Item vectors: PPMI by hand, clusters found again, text for the new, bounds that hold."""

import itertools

import numpy as np
import pytest

from pinnerformer_jax.data.text_map import vectors_from_text
from pinnerformer_jax.ingestion import item_vectors
from pinnerformer_jax.ingestion.item_vectors import (
    Built,
    build,
    fit_text_map,
    ppmi,
    project_texts,
    text_basis,
    vectors_of_texts,
)


def clusters(users=300, clusters=4, size=10, per_user=6, seed=0):
    """Each user has items of one cluster; item i is of cluster i // size."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), per_user).astype(np.int64)
    item = (user % clusters) * size + rng.integers(0, size, len(user))
    return user * 1_000_003 - 5, item.astype(np.int32)  # ids need be neither dense nor positive


def neighbours_share(vectors, size):
    """Share of each item's nearest size - 1 others that are of its cluster."""
    similarity = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argsort(-similarity, axis=1)[:, : size - 1]
    return np.mean(near // size == np.arange(len(vectors))[:, None] // size)


def test_ppmi_by_hand():
    # Users {0, 1}, {0, 1, 2}, {2, 3}, {3}: the last pairs nothing; the repeat of 0 counts once.
    user = np.array([7, 7, 7, 8, 8, 8, 9, 9, 10], np.int64)
    item = np.array([0, 1, 0, 0, 1, 2, 2, 3, 3], np.int32)
    together = np.array([[0, 1.5, 0.5, 0], [1.5, 0, 0.5, 0], [0.5, 0.5, 0, 1], [0, 0, 1, 0]])
    users = np.array([2, 2, 2, 1])
    np.testing.assert_allclose(together.sum(1), users)  # each user of an item weighs 1
    context = users**0.75 / (users**0.75).sum()
    with np.errstate(divide="ignore"):
        expected = np.maximum(np.log(together / (users[:, None] * context)), 0)
    np.testing.assert_allclose(ppmi(user, item, 4).toarray(), expected, atol=1e-6)
    assert expected[0, 1] == pytest.approx(np.log(0.75 / (2**0.75 / (3 * 2**0.75 + 1))))


def test_blocks_change_nothing(monkeypatch):
    user, item = clusters()
    whole = ppmi(user, item, 40)
    monkeypatch.setattr(item_vectors, "BLOCK_PAIRS", 1000)
    np.testing.assert_array_equal(ppmi(user, item, 40).toarray(), whole.toarray())


def test_entries_are_bounded_and_the_best_attested_stay(monkeypatch):
    user, item = clusters()
    whole = ppmi(user, item, 40).toarray()
    monkeypatch.setattr(item_vectors, "MAX_ENTRIES", 40 * 3)
    few = ppmi(user, item, 40).toarray()
    assert ((few > 0).sum(1) == 3).all()
    np.testing.assert_array_equal(few[few > 0], whole[few > 0])
    # Together more often, over the same row total and near-equal contexts, is a higher score.
    assert few.sum() / 120 > whole[whole > 0].mean()


def test_items_met_together_are_near():
    user, item = clusters()
    vectors = build(user, item, 40, None, dim=16).vectors
    assert vectors.shape == (40, 16)
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    assert neighbours_share(vectors, 10) > 0.95


def test_a_heavy_user_does_not_drown_the_others():
    user, item = clusters()
    heavy_item = np.tile(np.arange(40, dtype=np.int32), 500)
    heavy_user = np.full(len(heavy_item), 77, np.int64)
    events = np.concatenate([user, heavy_user]), np.concatenate([item, heavy_item])
    vectors = build(*events, 40, None, dim=16).vectors
    assert neighbours_share(vectors, 10) > 0.95


def test_long_timelines_are_sampled():
    n_items = item_vectors.MAX_ITEMS_PER_USER * 4
    item = np.arange(n_items, dtype=np.int32)
    owned = item_vectors._users_by_items(np.zeros(n_items, np.int64), item, n_items, seed=0)
    assert 0.8 < owned.nnz / item_vectors.MAX_ITEMS_PER_USER < 1.2
    short = item_vectors._users_by_items(np.zeros(50, np.int64), item[:50], n_items, seed=0)
    assert short.nnz == 50


def test_a_new_item_lies_near_its_kin_by_text():
    user, item = clusters()
    words = ["red garden lamp", "blue wool scarf", "walnut cake tin", "retro alarm clock"]
    texts = [f"{words[i // 10]} no {i}" for i in range(40)] + ["large wool scarf", "", "zzz"]
    vectors = build(user, item, 43, texts, dim=32).vectors
    assert vectors.any(axis=1).tolist() == [True] * 41 + [False, False]
    assert not vectors[41:].any()  # no text, and a text of words that training never saw
    assert not vectors[40, :16].any()  # never in training: no co-occurrence half
    similarity = vectors[:40].astype(np.float32) @ vectors[40].astype(np.float32)
    assert set(np.argsort(-similarity)[:10]) == set(range(10, 20))
    halves = np.linalg.norm(vectors[:40].reshape(40, 2, 16).astype(np.float32), axis=-1)
    np.testing.assert_allclose(halves, np.sqrt(0.5), atol=2e-3)


def test_texts_after_the_split_do_not_move_the_others():
    user, item = clusters()
    texts = [f"kind {i // 10} colour {i % 3}" for i in range(40)]
    without = build(user, item, 41, [*texts, ""], dim=16)
    given = build(user, item, 41, [*texts, "kind 3 colour 1 colour 1"], dim=16)
    np.testing.assert_array_equal(given.vectors[:40], without.vectors[:40])


def test_a_basis_gives_any_text_the_vector_it_had():
    texts = [f"kind {i // 10} colour {i % 3}" for i in range(40)]
    trained = np.arange(40) < 30
    basis = text_basis(texts, trained, 8, 0)
    words = [text.split() for text in texts[:30]]
    assert len(basis.word) == len({part for text in words for part in (*text, *itertools.pairwise(text))})
    np.testing.assert_allclose(
        project_texts(basis, texts[35:]), item_vectors.text_vectors(texts, trained, 8, 0)[35:], atol=1e-6
    )
    assert not project_texts(basis, ["words unseen", ""]).any()


def told_by_text(words=("lamp", "scarf", "cake", "clock")) -> tuple[Built, list[str]]:
    """100 items of four clusters whose texts name the cluster; the last one met no other item."""
    user, item = clusters(users=800, size=25)
    texts = [f"{words[i // 25 % len(words)]} no {i}" for i in range(100)] + [f"blue {words[-1]}"]
    return build(user, item, 101, texts, dim=32), texts


def test_text_gives_a_new_item_its_half_of_co_occurrence():
    built, texts = told_by_text()
    assert built.text_map.shape == (17, 16)
    halves = np.linalg.norm(built.vectors.reshape(101, 2, 16).astype(np.float32), axis=-1)
    np.testing.assert_allclose(halves, np.sqrt(0.5), atol=2e-3)
    similarity = (built.vectors[:100, :16] @ built.vectors[100, :16]).astype(np.float32)
    assert set(np.argsort(-similarity)[:25]) == set(range(75, 100))
    later = vectors_of_texts(built.basis, built.text_map, [texts[100], "", "unseen"], dim=32)
    np.testing.assert_array_equal(later[0], built.vectors[100])
    assert not later[1:].any()


def test_text_that_tells_nothing_gives_no_half():
    built, texts = told_by_text(words=("thing",))
    assert built.text_map is None
    assert not built.vectors[100, :16].any()
    later = vectors_of_texts(built.basis, None, texts[100:], dim=32)
    np.testing.assert_array_equal(later[0], built.vectors[100])


def test_the_map_of_chance_is_refused_and_of_few_items_too():
    rng = np.random.default_rng(0)
    text, other = (item_vectors.normalize(rng.normal(size=(400, 8))).astype(np.float32) for _ in range(2))
    assert fit_text_map(text, other, 0) is None
    turned = text[:, ::-1].copy()
    text_map = fit_text_map(text, turned, 0)
    np.testing.assert_allclose(vectors_from_text(text, text_map)[:, :8] * 2**0.5, turned, atol=0.02)
    assert fit_text_map(text[:49], turned[:49], 0) is None


def test_same_seed_same_bytes():
    user, item = clusters()
    texts = [f"kind {i // 10}" for i in range(40)]
    first, again = (build(user, item, 40, texts, dim=16, seed=3) for _ in range(2))
    assert first.vectors.tobytes() == again.vectors.tobytes()


def test_small_catalogue_is_padded_with_zeros():
    user = np.array([1, 1, 2, 2], np.int64)
    item = np.array([0, 1, 1, 2], np.int32)
    vectors = build(user, item, 4, ["a lamp", "a cake", "a lamp", "a lamp"], dim=64).vectors
    assert vectors.shape == (4, 64)
    assert vectors.any(axis=1).all()
    assert not vectors[:, 4:32].any()
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("texts", [None, ["", ""], ["-", " "], ["a lamp", "a cake"]])
def test_no_events(texts):
    nobody = np.zeros(0, np.int64), np.zeros(0, np.int32)
    vectors = build(*nobody, 2, texts, dim=8).vectors
    assert vectors.shape == (2, 8)
    assert vectors.any(axis=1).all() == (texts == ["a lamp", "a cake"])


def test_errors_say_what_is_wrong():
    one = np.zeros(1, np.int64), np.array([3], np.int32)
    with pytest.raises(ValueError, match=r"3\.\.3, the catalogue has 3 rows"):
        build(*one, 3, None, dim=8)
    with pytest.raises(ValueError, match="1 texts for 4 items"):
        build(*one, 4, ["a"], dim=8)
