"""Priors of what is served: what the user did before, and what is popular now.

    score(user, item) = <user vector, item vector>
                        + own_weight * log(1 + the user's own decayed count of the item)
                        + popularity_weight * log(1 + everybody's decayed count of the item)

A count is of positive events among each user's newest `kept_events`, and an event counts 1/2 after each
half-life. One vector of a user cannot list hundreds of exact items, and a model is as old as its training;
the two counts know both. Where people rarely come back to an item, what they had is left out instead
(`hide_seen`): such items are nearest to their vector. The paper serves the inner product alone, of all items.
The priors are fitted on validation users (`evaluation.fit_priors`), and a state of the daily job keeps the
events that they need.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.files import read_checked_json, write_checked_json

FILE = "priors.json"
KEPT_EVENTS = 4096
"""The newest events of a user that are counted or hidden, if the model does not read more. Without a bound a
state of the daily job would grow for ever."""


def kept_events(max_length: int) -> int:
    """How many newest events of a user are counted or hidden, where the model reads `max_length`."""
    return max(max_length, KEPT_EVENTS)


@dataclass(frozen=True)
class Priors:
    """Weights and half-lives; a weight of zero leaves its count out."""

    own_weight: float = 0.0
    own_half_life_days: float = 30.0
    popularity_weight: float = 0.0
    popularity_half_life_days: float = 7.0
    popularity_share: float = 1.0
    """Share of the users whose events were counted in the fit. A count of all users is multiplied by it."""
    hide_seen: bool = False
    """Whether the items of the user's newest `kept_events` events are left out."""
    vectors_own_weight: float = 0.0
    """Of the own counts in vectors that hold the priors (`retrieval.prior_vectors`), in place of
    `own_weight`."""
    vectors_own_dim: int = 0
    """Numbers of such a vector that hold them."""

    @property
    def none(self) -> bool:
        """Whether the score is the inner product alone, of all items."""
        return self.own_weight == 0 and self.popularity_weight == 0 and not self.hide_seen

    @property
    def used(self) -> bool:
        """Whether anything that is served, or its vectors, takes more than the inner product."""
        return not self.none or self.vectors_own_weight != 0

    @property
    def formula(self) -> str:
        """The served score, for people."""
        terms = []
        if self.own_weight:
            terms.append(_term(self.own_weight, "own", self.own_half_life_days))
        if self.popularity_weight:
            terms.append(self._popularity_term)
        return " + ".join(["inner product", *terms]) + self._hidden

    @property
    def vectors_formula(self) -> str:
        """The score by vectors that hold the priors, for people."""
        terms = []
        if self.vectors_own_weight:
            terms.append(f"{self.vectors_own_weight:g} x own counts in {self.vectors_own_dim} numbers")
        if self.popularity_weight:
            terms.append(self._popularity_term)
        return " + ".join(["inner product", *terms]) + self._hidden

    @property
    def _popularity_term(self) -> str:
        return _term(self.popularity_weight, "everybody's", self.popularity_half_life_days)

    @property
    def _hidden(self) -> str:
        return ", of items that the user did not have" if self.hide_seen else ""

    def add(self, own: np.ndarray, popularity: np.ndarray) -> np.ndarray:
        """What is added to the inner products.

        Args:
            own: decayed counts of the user's own positives.
            popularity: decayed counts of everybody's, of a shape that fits.
        """
        return self.own_weight * np.log1p(own) + self.popularity_weight * np.log1p(popularity)

    def hides(self, asked: bool | None) -> bool:
        """Whether what a user had is left out of a list: as asked for, or, by None, as was fitted."""
        return self.hide_seen if asked is None else asked

    def own_drop(self, counted: np.ndarray) -> np.ndarray:
        """float [K, E]: how much lower the score of each item is without each event of the user.

        Args:
            counted: float [K, E], what the event adds to the user's own count of the item.
        """
        count = counted.sum(axis=1, keepdims=True)
        return self.own_weight * (np.log1p(count) - np.log1p(np.maximum(count - counted, 0)))


def _term(weight: float, whose: str, days: float) -> str:
    return f"{weight:g} x log(1 + {whose} count, half-life {days:g} days)"


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
    write_checked_json(workdir / FILE, {"step": step, **asdict(priors), "note": note})


def read_priors(workdir: Path, step: int) -> tuple[Priors, str]:
    """The priors of a checkpoint; none if they were not fitted for it.

    Args:
        workdir: of the run.
        step: of the checkpoint.

    Returns:
        The priors, and a sentence on them.

    Raises:
        ValueError: the file is not one that `write_priors` wrote.
    """
    file = workdir / FILE
    if not file.is_file():
        return (
            Priors(),
            f"no {FILE} in {workdir}: served without priors; python -m pinnerformer_jax.evaluate fits them",
        )
    values = read_checked_json(file, "what evaluate writes", "run evaluate again")
    try:
        fitted_for = values["step"]
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Priors)}
        priors = Priors(**{name: kinds[name](value) for name, value in values.items() if name in kinds})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not what evaluate writes ({error}); run evaluate again") from error
    if fitted_for != step:
        return Priors(), (
            f"{file} was fitted for step {fitted_for:,}, and this checkpoint is of step {step:,}: served "
            "without priors; python -m pinnerformer_jax.evaluate fits them"
        )
    return priors, priors.formula
