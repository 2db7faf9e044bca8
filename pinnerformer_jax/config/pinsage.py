"""Settings of item vectors by PinSage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pinnerformer_jax.config.checks import require, require_at_most, require_types

PinSageLoss = Literal["sampled_softmax", "max_margin"]


@dataclass(frozen=True)
class PinSageConfig:
    """Item vectors by PinSage (Ying et al., KDD 2018). The sizes are our choice; the paper's are for a graph
    of three billion items."""

    walkers: int = 100
    """Random walks that start at an item."""
    hops: int = 5
    """Moves (item, one of its users, one of that user's items) of each."""
    restart: float = 0.5
    """Chance before each further move to go back to the start."""
    neighbours: int = 20
    """T: most visited items that are pooled; the paper's is 50."""
    session_hours: float = 0.0
    """A second kind of node beside users: sessions, which a pause of more hours than this ends (visits,
    orders), linked to their items. 0: users alone."""
    numbers: tuple[str, ...] = ()
    """Numeric columns or SQL expressions of items.table that are content too. They are standardised; of what
    has a long tail take `ln(1 + price)`. A count that goes on after t would be a leak."""
    width: int = 256
    """Numbers of the hidden layers; vectors have items.built_dim."""
    reach: int = 256
    """Items that are co-engaged: 1, 2, 4, ... positives apart in a user's timeline, at most so many ..."""
    window_days: float = 28.0
    """... and at most so many days. Short windows find the very next item better, and make worse vectors for
    a model of users."""
    batch_size: int = 512
    """Pairs a step; their second items are negatives of each other."""
    random_negatives: int = 1024
    """Negatives a step that are uniform over the items of the training period."""
    loss: PinSageLoss = "sampled_softmax"
    """With logQ, as in the towers; or the paper's max_margin, with hard negatives."""
    temperature: float = 0.07
    """tau of the sampled softmax."""
    margin: float = 0.2
    """Of the max-margin, between cosines."""
    hard_negatives: int = 4
    """A pair's own negatives under max-margin, drawn from what the query's walks visit less often than its
    neighbours. None at the start of the training, all at its end (the paper's curriculum)."""
    hard_ranks: int = 100
    """Ranks by visits behind the neighbours that they are drawn from."""
    whitening: float = 0.0
    """How far the vectors' principal axes are made equally wide: 0 not at all, 1 wholly. It helped where
    histories are long and items come again, and hurt elsewhere: docs/items.md. Our choice."""
    isolated_share: float = 0.3
    """Share of items whose edges are hidden in a step, so that content alone must do, as it must for new
    items. Our choice."""
    steps: int = 1000
    """Steps of the training."""
    learning_rate: float = 1e-3
    """Peak; warmed up, then cosine to zero."""
    seed: int = 0
    """Of walks, parameters and batches."""

    def __post_init__(self) -> None:
        require_types(self, "pinsage")
        for name in ("walkers", "hops", "neighbours", "width", "reach", "hard_ranks", "batch_size", "steps"):
            require(getattr(self, name) >= 1, f"pinsage.{name}", getattr(self, name), "must be >= 1")
        for name in ("restart", "isolated_share"):
            require(0 <= getattr(self, name) < 1, f"pinsage.{name}", getattr(self, name), "must be in [0, 1)")
        require_at_most(
            self, "pinsage", walkers=10**6, hops=1_000, neighbours=1_024, width=65_536, reach=65_536,
            hard_ranks=65_536, batch_size=2**24, steps=10**9, random_negatives=2**24, hard_negatives=65_536,
            window_days=36_500, session_hours=876_000,
        )  # fmt: skip
        require(0 <= self.seed < 2**32, "pinsage.seed", self.seed, "must be in 0..2^32 - 1")
        require(0 <= self.whitening <= 1, "pinsage.whitening", self.whitening, "must be in [0, 1]")
        for name in ("window_days", "temperature", "margin", "learning_rate"):
            require(getattr(self, name) > 0, f"pinsage.{name}", getattr(self, name), "must be > 0")
        for name in ("random_negatives", "hard_negatives", "session_hours"):
            require(getattr(self, name) >= 0, f"pinsage.{name}", getattr(self, name), "must be >= 0")
