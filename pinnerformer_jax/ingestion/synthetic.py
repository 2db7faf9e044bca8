"""A synthetic world: an event log and an item table whose generating process is known.

Items. Each belongs to a topic and, within it, to one of six stages of a project (an idea, a plan, ... a
finish; then the next project). Its latent position is a vector of its topic; plus another one of its
topic, turned by a sixth of a circle a stage in every plane; plus a style in four dimensions; plus a
quality. Its base popularity is Pareto-tailed and grows with quality. Half of the items exist at the start,
the rest are born evenly over the days; appeal fades with age to a fifth. The `vector` of the item table is
the latent position under Gaussian noise, scaled to unit norm: what a content or graph model would know of
the item. A learner sees nothing else of it.

Users. Each has a heavy-tailed activity rate, a day they joined, a favourite hour, a taste over styles,
and interests, each in a topic of its own. Three are there from the start, one more is born about every
month; all but the first die after an exponential lifetime. The weight of an interest swings slowly and
is high in its first days. Each interest passes through the stages of its topic in order, at its own pace
(some 11 to 20 days a stage), and round again: what comes next follows from what was done last and how
long ago, not from the set of what was done.

Sessions start on days (more at weekends) and at hours round the user's own. One opens with an interest
drawn by weight, where topics of the working week and of the weekend weigh three times as much on
their days; at each event it may drift to another. An event of the interest takes an item of its topic, of
the stage it is in (or, one time in five, of the one before or after), by popularity, freshness and taste.
One event in five is off-interest: something popular of any topic. An item that the user has had is passed
over four times in five.

Actions. Off-interest events are mostly short views and closeups, at times a hide, nearly always on the
home feed; on-interest ones are closeups, clicks and repins, the longer the better the item fits the taste,
on the home feed, in search or among related items.

So popularity, the items a user had last, and the mean of all of them each know a part only; a model of
the sequence can know which interests are alive, how far each has come and at what pace, and the taste.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.files import atomic_path
from pinnerformer_jax.ingestion.synthetic_world import (
    EVENTS_PER_SESSION,
    STAGES,
    USERS_PER_BLOCK,
    Items,
    SyntheticConfig,
    Users,
    make_items,
    user_blocks,
)

ACTIONS = ("view", "closeup", "click", "repin", "hide")
SURFACES = ("homefeed", "search", "related")
TOPICS = (
    "kitchen", "garden", "wedding", "nursery", "sneaker", "tattoo", "camping", "pasta", "knitting", "denim",
    "bathroom", "balcony", "birthday", "watercolour", "jewellery", "hairstyle", "cycling", "bread",
    "quilting", "suit", "bookshelf", "orchard", "halloween", "ceramics", "nail", "makeup", "van", "dessert",
    "crochet", "vintage", "lighting", "succulent", "christmas", "calligraphy", "leather", "braid",
    "surfing", "coffee", "woodwork", "aquarium",
)  # fmt: skip
STYLES = ("minimal", "rustic", "bright", "retro", "bold", "delicate", "dark", "modern")

START = 1_767_225_600
"""First second of every world: 2026-01-01, a Thursday."""
FIRST_WEEKDAY = 3

# Rows: off-interest, on-interest. Columns: as ACTIONS and SURFACES.
ACTION_SHARE = np.array([[0.50, 0.36, 0.06, 0.01, 0.07], [0.05, 0.47, 0.24, 0.22, 0.02]])
MEDIAN_SECONDS = np.array([[1.5, 3.0, 4.0, 5.0, 1.0], [3.0, 14.0, 30.0, 8.0, 1.5]])
SURFACE_SHARE = np.array([[0.92, 0.02, 0.06], [0.68, 0.18, 0.14]])

STAGE_OFFSETS = np.array([0, 0, 0, 0, 0, 0, 0, 0, -1, 1])
"""Drawn evenly."""


def write(config: SyntheticConfig, out: str | Path) -> int:
    """Write OUT/items.parquet (item, title, topic, vector) and OUT/events.parquet (user, item, time [s
    since 1970], action, surface, duration [s]), ordered by time within each block of users.

    Returns:
        How many events there are.
    """
    items = make_items(config)
    names = pa.array(items.name)
    with atomic_path(Path(out) / "items.parquet") as path:
        pq.write_table(_item_table(config, items, names), path)
    rows = 0
    with atomic_path(Path(out) / "events.parquet") as path, pq.ParquetWriter(path, _SCHEMA) as writer:
        for first, users, rng in tqdm(
            user_blocks(config), "users", math.ceil(config.users / USERS_PER_BLOCK)
        ):
            events = make_events(config, items, users, rng)
            events["time"] += START
            user_names = pa.array([f"u{first + k:08d}" for k in range(len(users.rate))])
            events["user"], events["item"] = user_names.take(events["user"]), names.take(events["item"])
            events["action"] = pa.array(ACTIONS).take(events["action"])
            events["surface"] = pa.array(SURFACES).take(events["surface"])
            table = pa.table({name: events[name] for name in _SCHEMA.names}, _SCHEMA)
            writer.write_table(table, row_group_size=max(len(table), 1))
            rows += len(table)
    return rows


_SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("time", pa.int64()),
        ("action", pa.string()),
        ("surface", pa.string()),
        ("duration", pa.float32()),
    ]
)


def make_events(
    config: SyntheticConfig, items: Items, users: Users, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """All events of a block of users, by time: user and item (rows), time (int64 s since the start), action
    and surface (numbers), duration (float32 s)."""
    session_user, session_day = _sessions(config, users, rng)
    count = rng.geometric(1 / EVENTS_PER_SESSION, len(session_user))
    session = np.repeat(np.arange(len(session_user)), count)
    opens = np.diff(session, prepend=-1) > 0
    user, day = session_user[session], session_day[session]

    # The session's interest: drawn where it opens or drifts, and kept until it drifts again.
    weight = np.cumsum(interest_weight(items, users, session_user, session_day), axis=1)[session]
    drawn = (rng.random((len(user), 1)) * weight[:, -1:] >= weight).sum(axis=1)  # [E]
    drifts = opens | (rng.random(len(user)) < 0.15)
    interest = drawn[np.maximum.accumulate(np.where(drifts, np.arange(len(user)), 0))]

    on_interest = rng.random(len(user)) < 0.8
    stage = interest_stage(users, user, interest, day) + rng.choice(STAGE_OFFSETS, len(user))
    cell = users.topic[user, interest] * len(STAGES) + stage % len(STAGES)
    low = np.where(on_interest, items.first[cell], 0)
    high = np.where(on_interest, items.first[cell + 1], len(items.topic))
    item = _draw_items(items, low, high, day, users.taste[user], rng)

    kind = on_interest.astype(int)
    action, surface = _draw(ACTION_SHARE[kind], rng), _draw(SURFACE_SHARE[kind], rng)
    fit = style_fit(items, item, users.taste[user])
    duration = MEDIAN_SECONDS[kind, action] * np.exp(fit - 0.5 + 0.7 * rng.normal(size=len(user)))
    gap = duration + rng.exponential(30.0, len(user))
    elapsed = np.cumsum(gap) - gap
    elapsed -= elapsed[opens][session]
    time = (day * DAY + elapsed).astype(np.int64)

    order = np.lexsort((item, user, time))
    order = order[time[order] < config.days * DAY]
    order = order[~_passed_over(user[order], item[order], rng)]
    events = {"user": user, "item": item, "time": time, "action": action, "surface": surface}
    events["duration"] = duration.round(1).astype(np.float32)
    return {name: column[order] for name, column in events.items()}


def interest_weight(items: Items, users: Users, user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """[S, I]: how much each interest of `user` weighs at `day` (with its fraction); 0 while not alive."""
    day = day[:, None]
    age = day - users.born[user]
    swing = 0.8 * np.sin(2 * np.pi * day / users.swing_period[user] + users.swing_phase[user])
    weekday = (np.floor(day).astype(int) + FIRST_WEEKDAY) % 7
    weekend = items.weekend[users.topic[user]] * np.where(weekday >= 5, 1, -1)
    novelty = 1 + 2 * np.exp(-np.maximum(age, 0) / 7)
    alive = (age >= 0) & (day < users.dies[user])
    return alive * users.weight[user] * novelty * np.exp(swing + weekend)


def interest_stage(users: Users, user: np.ndarray, interest: np.ndarray, day: np.ndarray) -> np.ndarray:
    """int: the stage that an interest is in, counted on through the cycles."""
    at = user, interest
    return np.floor(users.stage[at] + (day - users.born[at]) / users.pace[at]).astype(int)


def freshness(items: Items, item: np.ndarray, day: np.ndarray) -> np.ndarray:
    """In [0, 1]: the appeal left at an item's age; 0 before its birth."""
    age = day - items.born[item]
    return np.where(age < 0, 0.0, 0.2 + 0.8 * np.exp(-np.maximum(age, 0) / 30))


def style_fit(items: Items, item: np.ndarray, taste: np.ndarray) -> np.ndarray:
    """In (0.05, 1): how well an item's style meets a taste."""
    return 0.05 + 0.95 / (1 + np.exp(-2.0 * (items.style[item] * taste).sum(axis=-1)))


def _sessions(
    config: SyntheticConfig, users: Users, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(user, day with the fraction at which it starts) of every session, by user."""
    count = rng.poisson(users.rate * (config.days - users.joined))
    user = np.repeat(np.arange(len(count)), count)
    weekend = (np.arange(config.days) + FIRST_WEEKDAY) % 7 >= 5
    weight = np.concatenate([[0.0], np.cumsum(np.where(weekend, 1.5, 1.0))])
    low = weight[users.joined[user]]
    day = np.searchsorted(weight, low + rng.random(len(user)) * (weight[-1] - low), side="right") - 1
    hour = (users.hour[user] + rng.normal(0.0, 2.5, len(user))) % 24
    return user, np.minimum(day, config.days - 1) + hour / 24


def _draw(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int: a column of each row, with the probabilities the row gives."""
    return (rng.random((len(share), 1)) >= np.cumsum(share[:, :-1], axis=1)).sum(axis=1)


def _draw_items(
    items: Items,
    low: np.ndarray,
    high: np.ndarray,
    day: np.ndarray,
    taste: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """An item of low : high for each event, with probability ~ popularity * freshness * fit: proposed by
    popularity, accepted by the rest."""
    item = np.zeros(len(low), np.int64)
    pending = np.arange(len(low))
    while len(pending):
        bottom, top = items.popularity[low[pending]], items.popularity[high[pending]]
        point = bottom + rng.random(len(pending)) * (top - bottom)
        drawn = np.searchsorted(items.popularity, point, side="right") - 1
        drawn = np.clip(drawn, low[pending], high[pending] - 1)  # rounding at an edge
        appeal = freshness(items, drawn, day[pending]) * style_fit(items, drawn, taste[pending])
        accepted = rng.random(len(pending)) < appeal
        item[pending[accepted]] = drawn[accepted]
        pending = pending[~accepted]
    return item


def _passed_over(user: np.ndarray, item: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool: of events in order of time, those of an item that the user has had, four times in five."""
    again = np.ones(len(user), bool)
    again[np.unique(user << 32 | item, return_index=True)[1]] = False
    return again & (rng.random(len(user)) < 0.8)


def _item_table(config: SyntheticConfig, items: Items, names: pa.Array) -> pa.Table:
    topics = [
        TOPICS[k % len(TOPICS)] + (f" {k // len(TOPICS)}" if k >= len(TOPICS) else "")
        for k in range(config.topics)
    ]
    # A style's word: the axis it leans to most, and which way.
    axis = np.abs(items.style).argmax(axis=1)
    style = 2 * axis + (np.take_along_axis(items.style, axis[:, None], axis=1)[:, 0] > 0)
    titles = [
        f"{STYLES[w]} {topics[t]} {STAGES[s]} {n.lstrip('i0') or 0}"
        for w, t, s, n in zip(style, items.topic, items.stage, items.name, strict=True)
    ]
    vectors = pa.FixedSizeListArray.from_arrays(items.vector.ravel(), config.vector_dim)
    return pa.table(
        {"item": names, "title": titles, "topic": pa.array(topics).take(items.topic), "vector": vectors}
    )
