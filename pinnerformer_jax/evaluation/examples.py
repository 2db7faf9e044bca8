"""Example users for the report: their history, what is retrieved for them, and their targets."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import Scorer
from pinnerformer_jax.evaluation.metrics import NO_PAIRS, rank_targets, retrieved
from pinnerformer_jax.evaluation.protocol import Protocol

SHOWN = 10
"""Items of each list."""


def examples(
    scorer: Scorer,
    protocol: Protocol,
    timelines: Timelines,
    catalog: Catalog,
    config: EvaluationConfig,
    count: int = 6,
) -> list[dict[str, Any]]:
    """Describe a few users, drawn at random so that the choice favours no method.

    Returns:
        For each: "user" (id as it came), "events", "history" (newest first: "title", "time"), "retrieved"
        (candidates of protocol `full`: "title", "hit", "seen") and "targets" ("title", "hit", "seen").
    """
    rng = np.random.default_rng(config.seed)
    places = np.sort(rng.choice(len(protocol.users), min(count, len(protocol.users)), replace=False))
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

    def describe(rows: np.ndarray, hits: np.ndarray, touched: np.ndarray) -> list[dict[str, Any]]:
        return [{"title": catalog.titles[r], "hit": r in hits, "seen": r in touched} for r in rows.tolist()]

    found = []
    for k, place in enumerate(places):
        wanted = targets.item[targets.offsets[place] : targets.offsets[place + 1]]
        events = slice(history.offsets[place], history.offsets[place + 1])
        touched, shown = history.item[events], top[k][top[k] >= 0]
        latest = list(zip(touched.tolist(), history.time[events].tolist(), strict=True))[: -SHOWN - 1 : -1]
        found.append(
            {
                "user": str(ids[k]),
                "events": len(touched),
                "history": [{"title": catalog.titles[r], "time": format_time(t)} for r, t in latest],
                "retrieved": describe(shown, wanted, touched),
                "targets": describe(wanted, shown, touched),
            }
        )
    return found
