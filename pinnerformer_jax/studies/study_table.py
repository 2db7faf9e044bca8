"""A table of a study: lines that change the base config, columns, and the paper's claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from pinnerformer_jax.config import Config
from pinnerformer_jax.evaluation.comparison import MODEL

Part = Literal["retrieval", "staleness", "pinnersage", "ranker"]
"""Of the evaluation of a trained model, see measure.py."""

DIFFERENT = 0.02
"""Two numbers that differ by less than this share have no order, in the paper or in ours (our choice)."""


@dataclass(frozen=True)
class Variant:
    """Changes of the base config, by section; without any it is the base itself."""

    model: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def of(self, base: Config, seed: int) -> Config:
        """The config of one training.

        Raises:
            ValueError: a setting does not exist, or its value is out of range.
        """
        training = {**self.training, "seed": base.training.seed + seed}
        try:
            return dataclasses.replace(
                base,
                model=dataclasses.replace(base.model, **self.model),
                objective=dataclasses.replace(base.objective, **self.objective),
                training=dataclasses.replace(base.training, **training),
            )
        except TypeError as error:
            raise ValueError(f"a variant of the study changes an unknown setting: {error}") from None


BASE = Variant()


@dataclass(frozen=True)
class Column:
    """A column of a table: one metric of every line."""

    title: str
    metric: str  # its name in what measure.py returns


RECALL = Column("Recall@10", "recall@10")
NEW = Column("Recall@10, new items, full catalogue", "new_items recall@10")
ENTROPY = Column("Interest entropy@50", "interest_entropy@50")
COVERAGE = Column("P90 coverage@10", "p90_coverage@10")


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    name: str
    variant: Variant = BASE
    paper: tuple[float | None, ...] = ()  # a number a column; shorter: the paper has no more
    method: str = MODEL  # the method whose metrics it shows, of those that measure.py returns


@dataclass(frozen=True)
class Claim:
    """One number is higher than another, or as high; each by (line, column)."""

    higher: tuple[str, str]
    lower: tuple[str, str]
    same: bool = False
    least: float = DIFFERENT  # a difference of a smaller share counts as none
    says: str = ""  # a claim that the paper's argument rests on, in words, for the head of the page


@dataclass(frozen=True)
class StudyTable:
    """One of the paper's tables on our data."""

    name: str  # for --only
    title: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    parts: tuple[Part, ...] = ("retrieval",)
    claims: tuple[Claim, ...] = ()  # what the paper claims besides the order of its numbers
    plot: Literal["", "by line", "by column"] = ""
    note: str = ""

    def __post_init__(self) -> None:
        names, titles = [line.name for line in self.lines], [column.title for column in self.columns]
        for claim in self.claims:
            for line, column in (claim.higher, claim.lower):
                if line not in names or column not in titles:
                    raise ValueError(
                        f"study table {self.name!r}: a claim about {line!r}, {column!r}: the table has no "
                        "such line or column"
                    )
        if len(set(names)) < len(names) or len(set(titles)) < len(titles):
            raise ValueError(f"study table {self.name!r}: two lines or two columns have one name")

    def orderings(self) -> list[Claim]:
        """All claims of the paper: the order of its numbers in each column, and `claims`."""
        said = {frozenset((claim.higher, claim.lower)) for claim in self.claims}
        found = list(self.claims)
        for k, column in enumerate(self.columns):
            known = [(line.paper[k], line.name) for line in self.lines if len(line.paper) > k]
            numbers = [(value, name) for value, name in known if value is not None]
            for one, other in combinations(numbers, 2):
                (low, lower), (high, higher) = sorted((one, other))
                claim = Claim((higher, column.title), (lower, column.title))
                if high - low > DIFFERENT * high and frozenset((claim.higher, claim.lower)) not in said:
                    found.append(claim)
        return found
