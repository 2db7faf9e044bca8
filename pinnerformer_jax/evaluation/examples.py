"""Example users for the report: their history, what is retrieved for them, and their targets."""

from __future__ import annotations

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


class ExampleEvent(NamedTuple):
    """An event of a history."""

    title: str
    time: str  # ISO


class ExampleItem(NamedTuple):
    """An item that is retrieved, or a target."""

    title: str
    hit: bool  # both retrieved and a target
    seen: bool  # in the user's history


class Example(NamedTuple):
    """One user."""

    user: str  # id as in the log
    events: int  # up to t
    history: list[ExampleEvent]  # newest first
    retrieved: list[ExampleItem]  # best first, candidates of the protocol `full`
    targets: list[ExampleItem]


def examples(
    scorer: Scorer,
    protocol: Protocol,
    timelines: Timelines,
    catalog: Catalog,
    config: EvaluationConfig,
    count: int = 6,
) -> list[Example]:
    """Describe a few users, drawn at random so that the choice favours no method."""
    rng = np.random.default_rng(config.seed)
    places = np.sort(rng.choice(len(protocol.users), min(count, len(protocol.users)), replace=False))
    return _describe(places, scorer, protocol, timelines, catalog, config)


def missed(
    scorer: Scorer,
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
    found = _describe(places, scorer, protocol, timelines, catalog, config)
    return [user for user in found if not any(target.hit for target in user.targets)][:count]


def _describe(
    places: np.ndarray,
    scorer: Scorer,
    protocol: Protocol,
    timelines: Timelines,
    catalog: Catalog,
    config: EvaluationConfig,
) -> list[Example]:
    """Evaluated users by their places, in this order."""
    history, targets = protocol.history, protocol.targets
    user, number = targets.of(places)
    owner, event = history.of(places)
    seen = owner, history.item[event]
    ranking = rank_targets(
        jnp.asarray(scorer(places), jnp.float32),
        jnp.asarray(protocol.reachable),
        (user, targets.item[number]),
        seen if config.filter_seen else NO_PAIRS,
        SHOWN,
    )
    top = retrieved(ranking, protocol.reachable, SHOWN)
    ids = timelines.user_ids(protocol.users[places])

    def describe(rows: np.ndarray, hits: np.ndarray, touched: np.ndarray) -> list[ExampleItem]:
        return [ExampleItem(catalog.titles[row], row in hits, row in touched) for row in rows.tolist()]

    found = []
    for k, place in enumerate(places):
        wanted = targets.item[targets.offsets[place] : targets.offsets[place + 1]]
        events = slice(history.offsets[place], history.offsets[place + 1])
        touched, shown = history.item[events], top[k][top[k] >= 0]
        latest = list(zip(touched.tolist(), history.time[events].tolist(), strict=True))[: -SHOWN - 1 : -1]
        found.append(
            Example(
                user=str(ids[k]),
                events=len(touched),
                history=[ExampleEvent(catalog.titles[row], format_time(t)) for row, t in latest],
                retrieved=describe(shown, wanted, touched),
                targets=describe(wanted, shown, touched),
            )
        )
    return found
