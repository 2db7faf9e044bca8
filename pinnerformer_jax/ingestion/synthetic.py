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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.files import atomic_path

ACTIONS = ("view", "closeup", "click", "repin", "hide")
SURFACES = ("homefeed", "search", "related")
STAGES = ("idea", "plan", "materials", "technique", "assembly", "finish")
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

USERS_PER_BLOCK = 2048
"""Users made, and written as one row group, at a time: memory does not grow with the log."""

EVENTS_PER_SESSION = 4.0

# Rows: off-interest, on-interest. Columns: as ACTIONS and SURFACES.
ACTION_SHARE = np.array([[0.50, 0.36, 0.06, 0.01, 0.07], [0.05, 0.47, 0.24, 0.22, 0.02]])
MEDIAN_SECONDS = np.array([[1.5, 3.0, 4.0, 5.0, 1.0], [3.0, 14.0, 30.0, 8.0, 1.5]])
SURFACE_SHARE = np.array([[0.92, 0.02, 0.06], [0.68, 0.18, 0.14]])

STAGE_OFFSETS = np.array([0, 0, 0, 0, 0, 0, 0, 0, -1, 1])
"""Drawn evenly."""


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and seed of a world. The default makes the demo's."""

    users: int = 8_000
    """Users, some of whom join along the way."""
    items: int = 4_000
    """Items, half of them born along the way."""
    days: int = 90
    """Length of the log, from 2026-01-01."""
    events_per_user: float = 140.0
    """Mean events of a user before those are taken out that repeat an item (a third of them in a
    catalogue of 4,000, a sixth in one of 40,000); the most active have ten times the mean."""
    topics: int = 24
    """Topics, each with six stages."""
    vector_dim: int = 64
    """Numbers per item vector; even."""
    vector_noise: float = 0.4
    """Norm of the noise in an item vector, beside a norm of about 1.6 of the rest."""
    seed: int = 0
    """The same seed and sizes give the same files, byte for byte."""

    def __post_init__(self) -> None:
        for name in ("users", "days", "topics", "vector_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be >= 1")
        if self.items < self.topics * len(STAGES):
            raise ValueError(
                f"items = {self.items}: needs one per topic and stage, {self.topics * len(STAGES)} at least"
            )
        if self.vector_dim % 2:
            raise ValueError(f"vector_dim = {self.vector_dim}: must be even")
        if not self.events_per_user > 0 or not self.vector_noise >= 0:
            raise ValueError("events_per_user must be > 0, vector_noise >= 0")


@dataclass(frozen=True)
class Items:
    """The catalogue, ordered by (topic, stage): cell c owns items first[c] : first[c + 1]."""

    topic: np.ndarray  # int [N]
    stage: np.ndarray  # int [N]
    style: np.ndarray  # [N, 4]
    born: np.ndarray  # [N] day, negative: before the start
    popularity: np.ndarray  # [N] running sum of the base popularity, from 0; [N + 1]
    first: np.ndarray  # int [cells + 1]
    weekend: np.ndarray  # [topics] log 3 for a topic of the weekend, -log 3 for one of the week, else 0
    vector: np.ndarray  # float32 [N, D] unit rows
    name: np.ndarray  # text [N]


@dataclass(frozen=True)
class Users:
    """What a block of U users is like, with I interests each. Times in days since the start."""

    rate: np.ndarray  # [U] sessions a day
    joined: np.ndarray  # int [U] day
    hour: np.ndarray  # [U] favourite hour
    taste: np.ndarray  # [U, 4]
    topic: np.ndarray  # int [U, I]
    born: np.ndarray  # [U, I]
    dies: np.ndarray  # [U, I]
    weight: np.ndarray  # [U, I]
    swing_period: np.ndarray  # [U, I] days
    swing_phase: np.ndarray  # [U, I] radians
    pace: np.ndarray  # [U, I] days a stage
    stage: np.ndarray  # [U, I] stage at birth, with the fraction of it that is done


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


def make_items(config: SyntheticConfig) -> Items:
    """The catalogue of a world."""
    rng = np.random.default_rng([config.seed, 0])
    n, cells = config.items, config.topics * len(STAGES)
    share = _topic_share(config.topics).repeat(len(STAGES)) / len(STAGES)
    cell = np.sort(np.concatenate([np.arange(cells), rng.choice(cells, n - cells, p=share)]))
    first = np.searchsorted(cell, np.arange(cells + 1))
    topic, stage = np.divmod(cell, len(STAGES))

    born = np.where(rng.random(n) < 0.5, -rng.exponential(60.0, n), config.days * rng.random(n))
    born[first[:-1]] = np.minimum(born[first[:-1]], -1.0)  # no topic or stage is ever empty
    style, quality = rng.normal(size=(n, 4)), rng.normal(size=n)
    base = (1 + rng.pareto(2.0, n)) * np.exp(1.2 * quality)

    def directions(count: int) -> np.ndarray:
        return rng.normal(size=(count, config.vector_dim)) / np.sqrt(config.vector_dim)

    real, imaginary = np.split(directions(config.topics), 2, axis=1)
    turned = (real + 1j * imaginary)[topic] * np.exp(2j * np.pi * stage / len(STAGES))[:, None]
    latent = (
        0.6 * directions(config.topics)[topic]
        + 1.2 * np.concatenate([turned.real, turned.imag], axis=1)
        + 0.4 * style @ directions(4)
        + 0.4 * quality[:, None] * directions(1)
    )
    vector = latent + config.vector_noise * directions(n)
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    return Items(
        topic=topic,
        stage=stage,
        style=style,
        born=born,
        popularity=np.concatenate([[0], np.cumsum(base)]),
        first=first,
        weekend=np.log(3) * rng.integers(-1, 2, config.topics),
        vector=vector.astype(np.float32),
        name=np.char.mod("i%08d", rng.permutation(n)),  # a name tells nothing of the topic
    )


def user_blocks(config: SyntheticConfig) -> Iterator[tuple[int, Users, np.random.Generator]]:
    """(number of the first user, users, the generator their events are to be drawn with), block by block;
    each block has a generator of its own, so that it is the same in a world of more users."""
    for block, first in enumerate(range(0, config.users, USERS_PER_BLOCK)):
        rng = np.random.default_rng([config.seed, 1, block])
        yield first, _make_users(config, min(USERS_PER_BLOCK, config.users - first), rng), rng


def _make_users(config: SyntheticConfig, n: int, rng: np.random.Generator) -> Users:
    interests = min(3 + round(config.days / 30), config.topics)
    shape = (n, interests)
    born = config.days * rng.random(shape)
    born[:, :3] = -60.0 * rng.random((n, 3))[:, :interests]
    dies = born + rng.exponential(90.0, shape)
    dies[:, 0] = np.inf
    # The largest of log share + Gumbel noise are a draw without replacement.
    topic = np.argsort(-np.log(_topic_share(config.topics)) - rng.gumbel(size=(n, config.topics)), axis=1)
    # 40 % are there from the start; on average a user is there for 0.775 of the days.
    mean_sessions = config.events_per_user / (EVENTS_PER_SESSION * 0.775)
    return Users(
        rate=rng.lognormal(-0.5 * 0.8**2, 0.8, n) * mean_sessions / config.days,
        joined=np.maximum(rng.uniform(-0.5, 0.75, n) * config.days, 0).astype(int),
        hour=rng.normal(19.0, 3.0, n),
        taste=rng.normal(size=(n, 4)),
        topic=topic[:, :interests],
        born=born,
        dies=dies,
        weight=rng.lognormal(0.0, 1.0, shape),
        swing_period=rng.uniform(40.0, 120.0, shape),
        swing_phase=rng.uniform(0.0, 2 * np.pi, shape),
        pace=15.0 * rng.lognormal(0.0, 0.15, (n, 1)) * rng.lognormal(0.0, 0.1, shape),
        stage=rng.uniform(0.0, len(STAGES), shape),
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


def _topic_share(topics: int) -> np.ndarray:
    """Zipf-Mandelbrot: a few topics are common, none is rare beyond use."""
    share = 1 / (np.arange(topics) + 8.0)
    return share / share.sum()


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
