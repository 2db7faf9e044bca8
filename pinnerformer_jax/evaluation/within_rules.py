"""What the rules of a shop change: recall within them, and how many users would be shown what they forbid.

Lists are of the K best items of the full catalogue. A target that may not be shown counts as missed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.evaluation.comparison import Scorer, Statistic, in_chunks, resampled
from pinnerformer_jax.evaluation.protocol import Protocol
from pinnerformer_jax.evaluation.results import RulesResult
from pinnerformer_jax.retrieval.exact import top_k
from pinnerformer_jax.retrieval.rules import NO_RULES, Rules, within_cap

K = 10


def measure_rules(scorer: Scorer, protocol: Protocol, rules: Rules, config: EvaluationConfig) -> RulesResult:
    """Compare the lists of a score without rules and within them.

    Args:
        scorer: of the method that is served.
        protocol: users, targets and candidates.
        rules: over the same items.
        config: chunk size, filter_seen, seed.
    """
    items = len(protocol.reachable)
    forbidden = np.zeros(items, bool) if rules.allowed is None else ~rules.allowed
    recall: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    shown, blocked, users_blocked, users_beyond = 0, 0, 0, 0
    for places, scores in in_chunks(scorer, protocol, config):
        scores = _candidates(scores, places, protocol, config)
        lists = _best(scores, len(places), NO_RULES)
        for kept, of in zip(recall, (lists, _best(scores, len(places), rules)), strict=True):
            kept.append(_recall(of, places, protocol))
        for rows in lists:
            bad = int(forbidden[rows].sum())
            shown, blocked = shown + len(rows), blocked + bad
            users_blocked += bad > 0
            users_beyond += not within_cap(rows, rules).all()
    ones = np.ones(len(protocol.users))
    without, within = (Statistic(np.concatenate(parts), ones) for parts in recall)
    drawn = resampled([without, within], config.seed)
    low, high = np.percentile(drawn[:, 1] - drawn[:, 0], [2.5, 97.5])
    return RulesResult(
        k=K,
        items=int(protocol.reachable.sum()),
        forbidden_items=int((forbidden & protocol.reachable).sum()),
        forbidden_targets=float(forbidden[protocol.targets.item].mean()),
        at_most=None if rules.category is None else rules.at_most,
        recall=without.value(),
        recall_within=within.value(),
        difference_low=float(low),
        difference_high=float(high),
        shown_forbidden=blocked / max(shown, 1),
        users_shown_forbidden=users_blocked / len(protocol.users),
        users_beyond_cap=users_beyond / len(protocol.users),
    )


def _candidates(
    scores: jax.Array, places: np.ndarray, protocol: Protocol, config: EvaluationConfig
) -> jax.Array:
    """The scores with -inf for items that do not compete."""
    scores = jnp.where(jnp.asarray(protocol.reachable)[None, :], scores, -jnp.inf)
    if not config.filter_seen:
        return scores
    return scores.at[protocol.history.touched(places)].set(-jnp.inf)


def _best(scores: jax.Array, users: int, rules: Rules) -> list[np.ndarray]:
    """The K best items of each user within rules, or fewer; best first."""
    if rules.allowed is not None:
        scores = jnp.where(jnp.asarray(rules.allowed)[None, :], scores, -jnp.inf)
    items = scores.shape[1]
    width = min(K if rules.category is None else 8 * K, items)
    while True:
        best, rows = (of[:users] for of in jax.device_get(top_k(scores, width)))  # the rest is padding
        found = [_admitted(*row, rules) for row in zip(best, rows, strict=True)]
        if width == items or all(len(rows) == K for rows in found):
            return found
        width = min(4 * width, items)  # the cap left fewer than K for somebody


def _admitted(best: np.ndarray, rows: np.ndarray, rules: Rules) -> np.ndarray:
    rows = rows[np.isfinite(best)]
    return rows[within_cap(rows, rules)][:K]


def _recall(lists: list[np.ndarray], places: np.ndarray, protocol: Protocol) -> np.ndarray:
    """float64 [b]: hits / number of targets."""
    first, item = protocol.targets.offsets, protocol.targets.item
    return np.array(
        [
            np.isin(item[first[place] : first[place + 1]], rows).mean()
            for rows, place in zip(lists, places.tolist(), strict=True)
        ]
    )
