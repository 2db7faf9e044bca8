"""Settings that follow from the log: how many users there are, how much each of them did, how many items.

The defaults of the config are the paper's, for a log of hundreds of millions of users. A log of a few
thousand users needs a small model, a short training, and a larger share of its users to evaluate on. A config
with `sizes_by_log` asks for the rules below. The sizes are those of the configs made by hand for three logs.
Learning rate and epochs of small logs were chosen on four whole logs in seven forms, on splits one or two
windows before the evaluation window (docs/log.md). Nothing is measured on logs of a million events or more.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

FEW_USERS = 100_000
"""With fewer training users a model overfits: it gets dropout and weight decay."""

FEW_EVENTS = 1_000_000
"""With fewer events of training users it gets small steps."""

DRIFTS = 0.2
"""With a larger popularity drift, in nats, popularity is left to the priors. Of seven logs one has a larger
one, .32 to .34; the others have .08 at most (docs/log.md)."""

SHARES = ("evaluation_share", "validation_share")
"""Settings of the section data that ingest fills in."""


class LogSize(NamedTuple):
    """What the settings of a training depend on."""

    users: int  # that train
    events: int  # of these users, up to t
    items: int  # of the training period
    item_dim: int  # numbers of an item's vector
    popularity_drift: float = math.nan  # nats, see data/popularity.py; not known of many users


def shares_by_log(users: int) -> dict[str, float]:
    """Shares of users that do not train: `SHARES` of the section data, by name.

    They have few steps, because a user's role changes with them.

    Args:
        users: with enough events up to t.
    """
    if users < 20_000:
        return {"evaluation_share": 0.2, "validation_share": 0.1}
    if users < 200_000:
        return {"evaluation_share": 0.1, "validation_share": 0.05}
    return {"evaluation_share": 0.05, "validation_share": 0.02}


def settings_by_log(log: LogSize) -> dict[str, dict[str, Any]]:
    """Settings of the sections model, objective and training, by section and name.

    Args:
        log: its size.
    """
    few = log.users < FEW_USERS
    length = _power_of_two(log.events / max(log.users, 1), 16, 256)
    output_dim = min(max(log.item_dim, 64), 256)
    small = max(128, 32 * math.ceil(output_dim / 32))  # a multiple of the heads
    layers, width = (2, small) if log.events < 10**7 else (4, 512)
    if log.events >= 10**9:
        layers, width = 6, 768
    batch = _power_of_two(log.users / 32, 32, 512)
    epoch = log.users / batch
    steps = round(min(max(200, 8 * epoch, min(24 * epoch, 4_000)), 100_000))
    random = _power_of_two(log.items / 2, 256, 8192)
    return {
        "model": {
            "layers": layers,
            "width": width,
            "heads": 4 if width <= 256 else 8,
            "max_length": length,
            "output_dim": output_dim,
            "item_hidden": 2 * width if width <= 256 else width,
            "dropout": 0.3 if few else 0.0,
        },
        "objective": {
            "positions": _power_of_two(length / 4, 4, 32),
            "random_negatives": random,
            "in_batch_negatives": min(random // 2, 5000),
            "initial_temperature": 0.06 if few else 0.1,
            "popularity_half_life_days": 7.0 if few and log.popularity_drift > DRIFTS else 0.0,
        },
        "training": {
            "batch_size": batch,
            "steps": steps,
            "learning_rate": 3e-4 if log.events < FEW_EVENTS else 1e-3,
            "weight_decay": 0.1 if few else 0.01,
            "checkpoint_every": max(steps // 16, 1),
            "log_every": max(steps // 16, 1),
        },
    }


def fill(section: Any, values: dict[str, Any]) -> Any:
    """A section of the config with the values of those settings that are at their defaults.

    Args:
        section: a dataclass.
        values: by name.
    """
    usual = type(section)()
    free = {name: of for name, of in values.items() if getattr(section, name) == getattr(usual, name)}
    return dataclasses.replace(section, **free)


def _power_of_two(value: float, low: int, high: int) -> int:
    """The nearest power of two, by the logarithm, within bounds."""
    return min(max(2 ** round(math.log2(max(value, 1))), low), high)
