"""Vectors for items that have none, from co-occurrence in histories and from text.

Two halves, each of unit norm, concatenated and scaled to unit norm again:

* Co-occurrence within users, as positive pointwise mutual information (Levy, Goldberg & Dagan 2015),
  factorised by a truncated SVD: U sqrt(S). A user of n distinct items adds 1 / (n - 1) to each of
  their pairs, so that everyone counts once per item, however long the timeline; the row sums are then
  just the items' numbers of users. Smoothing the contexts' distribution keeps rare items from
  looking like the best match of everything they meet.
* TF-IDF of words and pairs of words, factorised the same way. Word frequencies and the basis come from
  items of the training period alone; other items are projected onto it.

An item that has text and met no other item, such as one that came after the training, has no half of its
own of co-occurrence. It gets the one that its text predicts (data/text_map.py), if text predicts it clearly
better than the mean does; else that half is zero.

Memory is bounded. The user-item matrix takes some 40 bytes an event while it is built; a user counts
with about MAX_ITEMS_PER_USER distinct items; item pairs are made BLOCK_PAIRS at a time; and of each
item's row so many best attested pairs stay that the whole matrix holds MAX_ENTRIES. The dense part is
a few [N, dim] float32 arrays.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float16, Float32, Int32, Int64
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from pinnerformer_jax.data.text_map import vectors_from_text

MAX_ITEMS_PER_USER = 200
BLOCK_PAIRS = 1 << 23
MAX_ENTRIES = 1 << 26
CONTEXT_SMOOTHING = 0.75
TEXT_FEATURES = 1 << 18
MAP_ITEMS, MAP_FOLDS, MAP_PENALTIES = 50_000, 5, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LEAST_GAIN = 0.05
"""By so much must the cosine of predicted and true halves of co-occurrence, over items that the map was not
fitted on, exceed that of the mean half."""


class TextBasis(NamedTuple):
    """What each word, or pair of words, adds to the vector of a text."""

    word: np.ndarray  # int32 [W] its hash, ascending
    vector: np.ndarray  # float32 [W, dim] inverse document frequency times its row of the basis


class Built(NamedTuple):
    """Built vectors, and what gives further items such vectors by their text."""

    vectors: Float16[np.ndarray, "N dim"]  # unit rows, zero where an item has neither half
    basis: TextBasis | None  # None: no item has a text
    text_map: Float32[np.ndarray, "rows J"] | None  # None: text does not tell of co-occurrence


def build(
    user: Int64[np.ndarray, " E"],
    item: Int32[np.ndarray, " E"],
    n_items: int,
    texts: list[str] | None,
    dim: int,
    seed: int = 0,
) -> Built:
    """Item vectors from the events of the training period and the items' texts.

    Args:
        user: number of the user, one entry per event.
        item: with what, row of the catalogue.
        n_items: N, rows of the catalogue; those without an event can only have a text half.
        texts: one per item, "" where there is none; None: the whole vector is co-occurrence.
        dim: numbers per vector; columns that a small catalogue cannot fill are zero.
        seed: of the sampling of long timelines and of the SVD.

    Raises:
        ValueError: an item number outside 0 : n_items, or not one text per item.
    """
    if item.size and not 0 <= item.min() <= item.max() < n_items:
        raise ValueError(f"item numbers span {item.min()}..{item.max()}, the catalogue has {n_items} rows")
    if texts is not None and len(texts) != n_items:
        raise ValueError(f"{len(texts)} texts for {n_items} items: give one per item")
    has_text = texts is not None and any(texts)
    text_dim = dim // 2 if has_text else 0
    co_occurrence = co_occurrence_vectors(user, item, n_items, dim - text_dim, seed)
    if not has_text:
        return Built(co_occurrence.astype(np.float16), None, None)
    trained = np.bincount(item, minlength=n_items) > 0
    basis = text_basis(texts, trained, text_dim, seed)
    text = project_texts(basis, texts)
    text_map = fit_text_map(text, co_occurrence, seed)
    vectors = normalize(np.hstack([co_occurrence, text]), copy=False)
    if text_map is not None:
        alone = ~co_occurrence.any(axis=1)
        vectors[alone] = vectors_from_text(text[alone], text_map)
    return Built(vectors.astype(np.float16), basis, text_map)


def vectors_of_texts(
    basis: TextBasis, text_map: Float32[np.ndarray, "rows J"] | None, texts: list[str], dim: int
) -> Float16[np.ndarray, "N dim"]:
    """Vectors of items that came later, as `build` gives them to items that met no other: unit rows; zero
    without a known word. `dim` is that of all vectors."""
    text = project_texts(basis, texts)
    if text_map is not None:
        return vectors_from_text(text, text_map).astype(np.float16)
    return np.pad(text, ((0, 0), (dim - text.shape[1], 0))).astype(np.float16)


def fit_text_map(
    text: Float32[np.ndarray, "N K"], co_occurrence: Float32[np.ndarray, "N J"], seed: int
) -> Float32[np.ndarray, "K+1 J"] | None:
    """The map of `vectors_from_text`: ridge regression over the items that have both halves.

    Args:
        text: unit rows, or zero.
        co_occurrence: likewise.
        seed: of the choice of `MAP_ITEMS` of more items, and of the folds.

    Returns:
        The map; None if it gains less than `LEAST_GAIN` on held-out items, or there are too few items.
    """
    both = np.flatnonzero(text.any(axis=1) & co_occurrence.any(axis=1))
    both = np.random.default_rng(seed).permutation(both)[:MAP_ITEMS]
    if len(both) < 10 * MAP_FOLDS:
        return None
    given, wanted = text[both], co_occurrence[both]
    ridge = RidgeCV(MAP_PENALTIES)
    predicted = cross_val_predict(ridge, given, wanted, cv=MAP_FOLDS)

    def cosine(rows: np.ndarray) -> float:
        return float((normalize(rows) * wanted).sum(axis=1).mean())

    if cosine(predicted) < cosine(wanted.mean(axis=0, keepdims=True)) + LEAST_GAIN:
        return None
    ridge.fit(given, wanted)
    last = ridge.predict(np.zeros((1, given.shape[1])))
    return np.vstack([ridge.predict(np.eye(given.shape[1])) - last, last]).astype(np.float32)


def co_occurrence_vectors(
    user: Int64[np.ndarray, " E"], item: Int32[np.ndarray, " E"], n_items: int, dim: int, seed: int = 0
) -> Float32[np.ndarray, "N dim"]:
    """The co-occurrence half: `ppmi`, factorised. Unit rows; zero where an item meets no other."""
    association = ppmi(user, item, n_items, seed)
    return normalize(association @ _factors(association, dim, seed), copy=False)


def ppmi(
    user: Int64[np.ndarray, " E"], item: Int32[np.ndarray, " E"], n_items: int, seed: int = 0
) -> sp.csr_matrix:
    """Positive pointwise mutual information of items that meet within users.

    max(0, log(P(j | i) / Q(j))), where P(j | i) is the weighted share of j among what users of i also
    have, and Q(j) ~ users(j) ** CONTEXT_SMOOTHING.

    Returns:
        float32 [N, N], zero diagonal, at most MAX_ENTRIES entries.
    """
    owned = _users_by_items(user, item, n_items, seed)  # [U, N]
    per_user = np.diff(owned.indptr)
    weighted = sp.diags_array((1 / np.maximum(per_user - 1, 1)).astype(np.float32)) @ owned
    owners = owned.T.tocsr()  # [N, U]
    users = np.diff(owners.indptr).astype(np.float64)
    context = users**CONTEXT_SMOOTHING
    context /= max(context.sum(), 1.0)

    neighbours = max(MAX_ENTRIES // n_items, 1)
    pairs = np.cumsum(owners @ per_user)  # upper bound of the pairs of items 0 : i + 1
    bounds = np.searchsorted(pairs, np.arange(BLOCK_PAIRS, pairs[-1], BLOCK_PAIRS))
    blocks = []
    for first, end in itertools.pairwise(np.unique([0, *bounds, n_items])):
        together = (owners[first:end] @ weighted).tocoo()
        row, column, count = together.row, together.col, together.data
        score = np.log(count / (users[first + row] * context[column])).astype(np.float32)
        keep = np.flatnonzero((score > 0) & (first + row != column))
        keep = _best_attested(keep, row[keep], count[keep], neighbours)
        blocks.append(sp.csr_matrix((score[keep], (row[keep], column[keep])), shape=together.shape))
    return sp.vstack(blocks, format="csr")


def _users_by_items(user: np.ndarray, item: np.ndarray, n_items: int, seed: int) -> sp.csr_matrix:
    """[U, N], 1 where the user had the item; of users of more than MAX_ITEMS_PER_USER distinct items a
    random share, so that about that many remain. Users of a single item make no pair and are left out."""
    _, row = np.unique(user, return_inverse=True)
    row = row.astype(np.int32)
    shape = (int(row.max(initial=-1)) + 1, n_items)
    owned = sp.csr_matrix((np.ones(len(item), np.float32), (row, item)), shape=shape)
    owned.sum_duplicates()
    distinct = np.diff(owned.indptr)
    share = np.repeat(MAX_ITEMS_PER_USER / np.maximum(distinct, 1), distinct)
    owned.data = (np.random.default_rng(seed).random(owned.nnz) < share).astype(np.float32)
    owned.eliminate_zeros()
    return owned[np.diff(owned.indptr) > 1]


def _best_attested(entry: np.ndarray, row: np.ndarray, count: np.ndarray, at_most: int) -> np.ndarray:
    """Of the entries of each row (`row` ascends), the `at_most` with the most co-occurrence."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    ends = np.append(starts[1:], len(row))
    if not len(row) or (ends - starts).max() <= at_most:
        return entry
    kept = []
    for start, end in zip(starts, ends, strict=True):
        if end - start <= at_most:
            kept.append(entry[start:end])
        else:
            kept.append(entry[start + np.argpartition(-count[start:end], at_most)[:at_most]])
    return np.concatenate(kept)


def text_vectors(
    texts: list[str], trained: Bool[np.ndarray, " N"], dim: int, seed: int
) -> Float32[np.ndarray, "N dim"]:
    """The text half: every text on the basis of the trained items' texts. Unit rows; zero without a known
    word."""
    return project_texts(text_basis(texts, trained, dim, seed), texts)


def text_basis(texts: list[str], trained: Bool[np.ndarray, " N"], dim: int, seed: int) -> TextBasis:
    """TF-IDF of words and pairs of words, factorised.

    Args:
        texts: one per item, "" where there is none.
        trained: items whose texts word frequencies and basis come from; if none has a text, all.
        dim: numbers per vector.
        seed: of the SVD.
    """
    words = _count_words(texts)
    worded = np.diff(words.indptr) > 0
    known = worded & trained
    if not known.any():  # no item of the training has text: fit on the new items
        known = worded
    if not known.any():
        return TextBasis(np.zeros(0, np.int32), np.zeros((0, dim), np.float32))
    tfidf = TfidfTransformer(sublinear_tf=True).fit(words[known])
    weights = tfidf.transform(words[known])
    word = np.unique(weights.indices)
    vector = tfidf.idf_[word, None] * _factors(weights[:, word], dim, seed)
    return TextBasis(word.astype(np.int32), vector.astype(np.float32))


def project_texts(basis: TextBasis, texts: list[str]) -> Float32[np.ndarray, "N dim"]:
    """Unit rows of any texts, also of items that came later; zero without a known word."""
    words = _count_words(texts)[:, basis.word]
    words.data = 1 + np.log(words.data)
    return normalize(words @ basis.vector, copy=False)


def _count_words(texts: list[str]) -> sp.csr_matrix:
    return HashingVectorizer(
        n_features=TEXT_FEATURES,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b",
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    ).transform(texts)


def _factors(matrix: sp.csr_matrix, dim: int, seed: int) -> Float32[np.ndarray, "columns dim"]:
    """First right singular vectors, each over the root of its singular value: rows on them are U sqrt(S).
    What the rank cannot fill is zero."""
    out = np.zeros((matrix.shape[1], dim), np.float32)
    if not matrix.nnz:
        return out
    _, singular, right = randomized_svd(matrix, min(dim, *matrix.shape), random_state=seed)
    right = right[singular > 1e-5 * singular[0]]  # below, float32 has nothing but rounding
    out[:, : len(right)] = right.T / np.sqrt(singular[: len(right)])
    return out
