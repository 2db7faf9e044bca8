"""The items and users of a synthetic world; synthetic.py describes them and draws their events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STAGES = ("idea", "plan", "materials", "technique", "assembly", "finish")

USERS_PER_BLOCK = 2048
"""Users made, and written as one row group, at a time: memory does not grow with the log."""

EVENTS_PER_SESSION = 4.0


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
        most = {"users": 10**9, "items": 10**9, "days": 36_500, "topics": 10**6, "vector_dim": 65_536}
        for name, bound in most.items():
            if not 1 <= getattr(self, name) <= bound:
                raise ValueError(f"{name} = {getattr(self, name)}: must be in 1..{bound:,}")
        if self.items < self.topics * len(STAGES):
            raise ValueError(
                f"items = {self.items}: needs one per topic and stage, {self.topics * len(STAGES)} at least"
            )
        if self.vector_dim % 2:
            raise ValueError(f"vector_dim = {self.vector_dim}: must be even")
        if not 0 < self.events_per_user <= 10**6 or not 0 <= self.vector_noise <= 10**6:
            raise ValueError("events_per_user must be > 0, vector_noise >= 0, both at most 1,000,000")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: must be in 0..2^32 - 1")


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


def _topic_share(topics: int) -> np.ndarray:
    """Zipf-Mandelbrot: a few topics are common, none is rare beyond use."""
    share = 1 / (np.arange(topics) + 8.0)
    return share / share.sum()
