"""Priors of the served score: what the user did before, and what is popular now.

    score(user, item) = <user vector, item vector>
                        + own_weight * log(1 + the user's own decayed count of the item)
                        + popularity_weight * log(1 + everybody's decayed count of the item)

A count is of positive events, and an event counts 1/2 after each half-life. One vector of a user cannot list
hundreds of exact items, and a model is as old as its training; the two counts know both. The paper serves the
inner product alone. The weights are fitted on validation users (`evaluation.fit_priors`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.files import write_json

FILE = "priors.json"


@dataclass(frozen=True)
class Priors:
    """Weights and half-lives; a weight of zero leaves its count out."""

    own_weight: float = 0.0
    own_half_life_days: float = 30.0
    popularity_weight: float = 0.0
    popularity_half_life_days: float = 7.0

    @property
    def none(self) -> bool:
        """Whether the score is the inner product alone."""
        return self.own_weight == 0 and self.popularity_weight == 0

    def add(self, own: np.ndarray, popularity: np.ndarray) -> np.ndarray:
        """What is added to the inner products.

        Args:
            own: decayed counts of the user's own positives.
            popularity: decayed counts of everybody's, of a shape that fits.
        """
        return self.own_weight * np.log1p(own) + self.popularity_weight * np.log1p(popularity)


def decay(time: np.ndarray, now: int, half_life_days: float) -> np.ndarray:
    """float64 [E]: what each event counts at `now`, 1 for an event of that second.

    Args:
        time: int64 [E], seconds since 1970, none later than `now`.
        now: seconds since 1970.
        half_life_days: infinity: every event counts 1.
    """
    return np.exp2((time - now) / (half_life_days * DAY))


def write_priors(workdir: Path, priors: Priors, step: int, note: str) -> None:
    """Write WORKDIR/priors.json.

    Args:
        workdir: of the run.
        priors: fitted for a checkpoint of it.
        step: of that checkpoint.
        note: how they were fitted, for people.
    """
    write_json(workdir / FILE, {"step": step, **asdict(priors), "note": note})
