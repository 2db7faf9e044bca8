"""Settings of what follows training: user vectors, the served index, the evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from pinnerformer_jax.config.checks import require, require_at_most, require_types


@dataclass(frozen=True)
class EmbeddingConfig:
    """Vectors of users from a trained model, in the evaluation and in the daily job."""

    batch_size: int = 256
    """Users embedded at a time."""
    own_dim: int = 256
    """K, numbers that hold a user's own counts in vectors that hold the priors (the verb vectors), if they
    help there; 0: none."""

    def __post_init__(self) -> None:
        require_types(self, "embedding")
        require(self.batch_size >= 1, "embedding.batch_size", self.batch_size, "must be >= 1")
        require(self.own_dim >= 0, "embedding.own_dim", self.own_dim, "must be >= 0")
        require_at_most(self, "embedding", batch_size=2**20, own_dim=65_536)


@dataclass(frozen=True)
class IndexConfig:
    """The served index of items, by ScaNN."""

    leaves: int = 0
    """Partitions; 0: about sqrt(items), and brute force below 20,000 items."""
    leaves_searched: int = 0
    """Partitions a query looks into; 0: as many as users' vectors need to find 98 % of their nearest items,
    at least a tenth and ten."""
    reorder: int = 200
    """Candidates re-scored exactly, at least; four for each neighbour that is wanted, if these are more."""

    def __post_init__(self) -> None:
        require_types(self, "index")
        for name in ("leaves", "leaves_searched"):
            require(getattr(self, name) >= 0, f"index.{name}", getattr(self, name), "must be >= 0")
        require(self.reorder >= 1, "index.reorder", self.reorder, "must be >= 1")
        require_at_most(self, "index", leaves=2**24, leaves_searched=2**24, reorder=2**24)


@dataclass(frozen=True)
class EvaluationConfig:
    """Unseen users, embedded as of t, against what they did in the days after it."""

    index_size: int = 1_000_000
    """Random items in the index of the paper's Recall@10; the whole catalogue if it is smaller."""
    cutoffs: tuple[int, ...] = (10, 50)
    """k of Recall@k, NDCG@k and HitRate@k over the full catalogue."""
    filter_seen: bool = False
    """Protocol `full`: take items the user has touched out of the candidates (`new_items` always does)."""
    batch_size: int = 256
    """Users scored at a time."""
    topics: int = 350
    """Topics of interest entropy, where none are given: k-means clusters of the item vectors."""
    max_users: int = 0
    """Evaluate on a random sample of so many users; 0: all."""
    seed: int = 0
    """Of the index sample, the user sample and k-means."""

    def __post_init__(self) -> None:
        require_types(self, "evaluation")
        require(
            all(k >= 1 for k in self.cutoffs) and self.cutoffs != (),
            "evaluation.cutoffs",
            self.cutoffs,
            "needs k >= 1",
        )
        require(max(self.cutoffs) <= 10_000, "evaluation.cutoffs", self.cutoffs, "must be <= 10,000")
        require_at_most(self, "evaluation", batch_size=2**20, topics=10**6, index_size=10**9, max_users=10**9)
        require(0 <= self.seed < 2**32, "evaluation.seed", self.seed, "must be in 0..2^32 - 1")
        for name in ("index_size", "batch_size", "topics"):
            require(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "must be >= 1")
        require(self.max_users >= 0, "evaluation.max_users", self.max_users, "must be >= 0")
