"""Example users for the report: their history, what is retrieved for them and why, and their targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import MAX_SCORES, Scorer
from pinnerformer_jax.evaluation.metrics import NO_PAIRS, rank_targets, retrieved
from pinnerformer_jax.evaluation.protocol import Protocol

SHOWN = 10
"""Items of each list."""
ACTIVE = 256
"""Users with the most targets, among whom `missed` looks."""


REASONS = 2
"""Past events that are named for an item, at most."""

Drops = Callable[[int, np.ndarray], np.ndarray]
"""The place of a user among the protocol's, and rows of items [K] -> how much lower the score of each is
without each event of the user up to t, float [K, E]."""


class ExampleEvent(NamedTuple):
    """An event of a history."""

    title: str
    time: str  # ISO


class ExampleItem(NamedTuple):
    """An item that is retrieved, or a target."""

    title: str
    hit: bool  # both retrieved and a target
    seen: bool  # in the user's history
    because: list[ExampleEvent]  # past events without which its score would be lower most; of targets none


class Example(NamedTuple):
    """One user."""

    user: str  # id as in the log
    events: int  # up to t
    history: list[ExampleEvent]  # newest first
    retrieved: list[ExampleItem]  # best first, candidates of the protocol `full`
    targets: list[ExampleItem]


def examples(
    scorer: Scorer,
    drops: Drops,
    protocol: Protocol,
    timelines: Timelines,
    catalog: Catalog,
    config: EvaluationConfig,
    count: int = 6,
) -> list[Example]:
    """Describe a few users, drawn at random so that the choice favours no method."""
    rng = np.random.default_rng(config.seed)
    places = np.sort(rng.choice(len(protocol.users), min(count, len(protocol.users)), replace=False))
    return _describe(places, scorer, drops, protocol, timelines, catalog, config)


def missed(
    scorer: Scorer,
    drops: Drops,
    protocol: Protocol,
    timelines: Timelines,
    catalog: Catalog,
    config: EvaluationConfig,
    count: int = 3,
) -> list[Example]:
    """Describe the users with the most targets of which none is retrieved. They show what the method cannot
    do. Looked for among the `ACTIVE` users with the most targets, or fewer in a large catalogue."""
    active = max(min(ACTIVE, MAX_SCORES // len(protocol.reachable)), 1)
    places = np.argsort(-np.diff(protocol.targets.offsets), kind="stable")[:active]
    targets = protocol.targets
    without_hit = [
        place
        for place, rows in zip(places.tolist(), _retrieved(places, scorer, protocol, config), strict=True)
        if not np.isin(rows, targets.item[targets.offsets[place] : targets.offsets[place + 1]]).any()
    ]
    chosen = np.array(without_hit[:count], np.int64)
    return _describe(chosen, scorer, drops, protocol, timelines, catalog, config) if len(chosen) else []


def _retrieved(
    places: np.ndarray, scorer: Scorer, protocol: Protocol, config: EvaluationConfig
) -> np.ndarray:
    """int32 [b, SHOWN]: the best items for evaluated users; -1 where there are fewer."""
    user, number = protocol.targets.of(places)
    seen = protocol.history.touched(places)
    ranking = rank_targets(
        jnp.asarray(scorer(places), jnp.float32),
        jnp.asarray(protocol.reachable),
        (user, protocol.targets.item[number]),
        seen if config.filter_seen else NO_PAIRS,
        SHOWN,
    )
    return retrieved(ranking, protocol.reachable, SHOWN)


def _describe(
    places: np.ndarray,
    scorer: Scorer,
    drops: Drops,
    protocol: Protocol,
    timelines: Timelines,
    catalog: Catalog,
    config: EvaluationConfig,
) -> list[Example]:
    """Evaluated users by their places, in this order."""
    history, targets = protocol.history, protocol.targets
    top = _retrieved(places, scorer, protocol, config)
    ids = timelines.user_ids(protocol.users[places])

    def describe(
        rows: np.ndarray, hits: np.ndarray, touched: np.ndarray, because: list[list[ExampleEvent]]
    ) -> list[ExampleItem]:
        return [
            ExampleItem(catalog.titles[row], row in hits, row in touched, events)
            for row, events in zip(rows.tolist(), because, strict=True)
        ]

    found = []
    for k, place in enumerate(places):
        wanted = targets.item[targets.offsets[place] : targets.offsets[place + 1]]
        events = slice(history.offsets[place], history.offsets[place + 1])
        touched, shown = history.item[events], top[k][top[k] >= 0]
        done = [
            ExampleEvent(catalog.titles[row], format_time(t))
            for row, t in zip(touched.tolist(), history.time[events].tolist(), strict=True)
        ]
        because = [[done[event] for event in _largest(lost)] for lost in drops(int(place), shown)]
        found.append(
            Example(
                user=str(ids[k]),
                events=len(touched),
                history=done[: -SHOWN - 1 : -1],
                retrieved=describe(shown, wanted, touched, because),
                targets=describe(wanted, shown, touched, [[] for _ in wanted]),
            )
        )
    return found


def _largest(drops: np.ndarray) -> list[int]:
    """The events of the largest drops, the largest first; none that is not above zero."""
    return [event for event in np.argsort(-drops, kind="stable")[:REASONS].tolist() if drops[event] > 0]
