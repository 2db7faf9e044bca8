"""What a positive is: an event that lasts at least as long as a rule demands of its action and surface.

The rules are `config.data.positives`; an event is positive if it meets any of them. They have two forms here:
a table of least durations, for arrays, and an SQL condition, for the event log.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from pinnerformer_jax.config import PositiveRule

MAX_NAMES = 255
"""Actions, and surfaces, that a byte can tell apart besides the unknown."""

Array: TypeAlias = Any  # of NumPy or of JAX


def is_positive(table: Array, action: Array, surface: Array, duration: Array) -> Array:
    """bool: which events are positive. All arrays are NumPy's, or all are jax's.

    Args:
        table: float32 [A, S], see `positive_table`.
        action: numbers of the events' actions, of any integer type.
        surface: numbers of their surfaces.
        duration: float32, in seconds.
    """
    return duration >= table[action.astype(np.int32), surface.astype(np.int32)]


def positive_table(rules: tuple[PositiveRule, ...], actions: list[str], surfaces: list[str]) -> np.ndarray:
    """float32 [A, S]: the seconds that an event of this action on this surface must last to be positive;
    infinity where no rule applies.

    Args:
        rules: any of them makes an event positive.
        actions: names by id, `actions[0]` the unknown.
        surfaces: names by id, `surfaces[0]` the unknown.

    Raises:
        ValueError: a rule names an action or surface that is not in the log.
    """
    table = np.full((len(actions), len(surfaces)), np.inf, np.float32)
    for rule in rules:
        for kind, wanted, known in (("action", rule.action, actions), ("surface", rule.surface, surfaces)):
            if wanted and wanted not in known[1:]:
                raise ValueError(f"data.positives: {_missing(kind, wanted, known[1:])}")
        rows = actions.index(rule.action) if rule.action else slice(None)
        columns = surfaces.index(rule.surface) if rule.surface else slice(None)
        table[rows, columns] = np.minimum(table[rows, columns], rule.min_duration)
    return table


def _missing(kind: str, wanted: str, known: list[str]) -> str:
    some = f"{known[:10]}" + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    if len(known) < MAX_NAMES:
        return f"no {kind} {wanted!r} in the log; it has {some}"
    return (
        f"no {kind} {wanted!r} among the {MAX_NAMES} that ingest kept, those that its rules name and the "
        f"most frequent; if the log has it, run ingest with this rule. Kept are {some}"
    )


def only_actions(table: np.ndarray, actions: list[str], wanted: tuple[str, ...]) -> np.ndarray:
    """A `positive_table` in which only events of some actions can be positive.

    Args:
        table: float32 [A, S].
        actions: names by id, `actions[0]` the unknown.
        wanted: names; empty: all.

    Raises:
        ValueError: a name is not in the log, or no rule applies to that action.
    """
    for name in wanted:
        possible = [a for a, row in zip(actions[1:], table[1:], strict=True) if np.isfinite(row).any()]
        if name not in possible:
            raise ValueError(
                f"objective.target_actions: {name!r} is no positive by data.positives; these are: {possible}"
            )
    kept = np.array([not wanted or name in wanted for name in actions])
    return np.where(kept[:, None], table, np.float32(np.inf))


def positive_sql(rules: tuple[PositiveRule, ...]) -> str:
    """SQL condition on the columns action, surface and duration of an event: it meets any of the rules."""
    conditions = []
    for rule in rules:
        parts = [f"duration >= CAST({rule.min_duration!r} AS FLOAT)"]
        parts += [
            f"{column} = '{name.replace(chr(39), 2 * chr(39))}'"
            for column, name in (("action", rule.action), ("surface", rule.surface))
            if name
        ]
        conditions.append(" AND ".join(parts))
    return "(" + " OR ".join(conditions) + ")"
