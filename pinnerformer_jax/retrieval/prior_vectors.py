"""Vectors whose inner product holds the priors, for a vector database that knows nothing of priors.

    user  [ vector | own_weight * x B | 1 ]
    item  [ vector | row of B         | popularity_weight * log(1 + everybody's decayed count) ]

x are log(1 + decayed count) of the user's own items. A vector cannot list them all. B, [N, K], are the K
strongest directions of x over all users, by a truncated SVD, so that x B B^T is the nearest to x that K
numbers can give: PureSVD (Cremonesi et al. 2010) of the own counts. So it also knows which items go together.
It is added to the inner product in place of the exact own counts of the served score (`retrieval.priors`), so
its weight is another one. Popularity is added exactly, with the served weight. The paper has nothing of this.

Dimensions: U users, N items, D numbers of a vector, K of the own counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.retrieval.priors import Priors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BASIS_USERS = 100_000
"""Directions are found on every k-th user where there are more."""


def own_basis(own: csr_matrix, dim: int) -> np.ndarray:
    """B, float32 [N, K]: orthonormal columns, the strongest first; zero beyond the rank of the counts.

    Args:
        own: float32 [U, N], log(1 + decayed count) of each user and item.
        dim: K.
    """
    from sklearn.utils.extmath import randomized_svd

    basis = np.zeros((own.shape[1], dim), np.float32)
    sample = own[:: max(1, -(-own.shape[0] // BASIS_USERS))]
    rank = min(dim, *sample.shape) if sample.nnz else 0
    if rank:
        basis[:, :rank] = randomized_svd(sample, rank, random_state=0)[2].T
    return basis


def users_with_priors(vectors: np.ndarray, own: csr_matrix, basis: np.ndarray, priors: Priors) -> np.ndarray:
    """float32 [U, D + K + 1], of those parts that have a weight.

    Args:
        vectors: [U, D].
        own: float32 [U, N], as for `own_basis`.
        basis: B.
        priors: whose weights count.
    """
    parts = [vectors.astype(np.float32)]
    if priors.vectors_own_weight:
        parts.append(priors.vectors_own_weight * (own @ basis))
    if priors.popularity_weight:
        parts.append(np.ones((len(vectors), 1), np.float32))
    return np.hstack(parts).astype(np.float32)


def items_with_priors(
    vectors: np.ndarray, basis: np.ndarray, popularity: np.ndarray | None, priors: Priors
) -> np.ndarray:
    """float32 [N, D + K + 1], of those parts that have a weight.

    Args:
        vectors: [N, D].
        basis: B.
        popularity: float64 [N], decayed counts; None, where they have no weight.
        priors: whose weights count.
    """
    parts = [vectors.astype(np.float32)]
    if priors.vectors_own_weight:
        parts.append(basis)
    if popularity is not None and priors.popularity_weight:
        parts.append((priors.popularity_weight * np.log1p(popularity))[:, None])
    return np.hstack(parts).astype(np.float32)
