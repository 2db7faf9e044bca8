"""Over the seeds of a study: means, spreads, and whether what the paper claims holds on these data.

A claim compares two numbers, seed by seed. The margin is half of a 95 % t interval over the seeds, and at
least 2 % of the numbers: the users are a sample too, and seeds can agree by chance. The claim holds if the
mean difference is above the margin, does not hold if it is below minus the margin, and is within the noise
otherwise. A claim that two numbers are the same holds if the interval is within 5 % of them, and does not
hold if it is outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import differences, to_dict
from pinnerformer_jax.evaluation.results import ProtocolSummary
from pinnerformer_jax.studies.measure import Numbers
from pinnerformer_jax.studies.study_table import Claim, Line, StudyTable

HOLDS, FAILS, NOISE, UNKNOWN = "holds", "does not hold", "within the noise", "not measured"
CONFIDENCE = 0.95
SAME = 0.05
"""Numbers that are called the same differ by at most this share."""
LISTED = 3
"""A sentence lists at most so many comparisons that do not hold; the page lists all."""

Outcomes = Mapping[tuple[str, str], Sequence[Numbers | None]]
"""By (table, line): what each seed gave; None where there is nothing."""


class Verdict(NamedTuple):
    """On one claim."""

    verdict: str
    difference: float | None  # mean over seeds
    margin: float | None  # the difference must exceed it


@dataclass(frozen=True)
class Spread:
    """A number over the seeds."""

    values: list[float | None]  # by seed; None: not measured
    mean: float | None
    deviation: float | None  # standard deviation, if there are two values


@dataclass(frozen=True)
class CellSummary(Spread):
    """A number of a table."""

    paper: float | None
    interval: list[float] | None  # 95 % bootstrap interval over users, its ends averaged over seeds


@dataclass(frozen=True)
class LineSummary:
    """A line of a table."""

    name: str
    changes: list[str]  # of the base config
    cells: list[CellSummary]  # by column


@dataclass(frozen=True)
class ClaimSummary:
    """A claim of the paper, and the verdict on it."""

    higher: tuple[str, str]  # line and column
    lower: tuple[str, str]
    same: bool
    says: str
    found: str  # both numbers, in words
    verdict: str
    difference: float | None
    margin: float | None


@dataclass(frozen=True)
class TableSummary:
    """A table of the paper beside ours."""

    name: str
    title: str
    note: str
    plot: Literal["", "by line", "by column"]
    columns: list[str]
    lines: list[LineSummary]
    claims: list[ClaimSummary]
    verdict: str
    sentence: str

    @property
    def held(self) -> int:
        """How many of the paper's comparisons hold."""
        return sum(claim.verdict == HOLDS for claim in self.claims)


@dataclass(frozen=True)
class StudySummary:
    """The contents of study.json. They do not depend on the time or speed of the study."""

    name: str
    seeds: int
    tables: list[TableSummary]
    config: Config  # the base
    protocol: ProtocolSummary
    failed: dict[str, str]  # why cells failed, by name

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self) | {"config": to_dict(self.config)}

    @property
    def argument(self) -> list[ClaimSummary]:
        """The claims that the paper's argument rests on."""
        return [claim for table in self.tables for claim in table.claims if claim.says]


def summarise_table(base: Config, table: StudyTable, outcomes: Outcomes) -> TableSummary:
    """A table from what each seed gave."""
    values = {
        (line.name, column.title): [
            _number(numbers, line.method, column.metric) for numbers in outcomes[table.name, line.name]
        ]
        for line in table.lines
        for column in table.columns
    }
    judged = [(claim, judge(claim, values[claim.higher], values[claim.lower])) for claim in table.orderings()]
    means = {key: spread(seen).mean for key, seen in values.items()}
    return TableSummary(
        name=table.name,
        title=table.title,
        note=table.note,
        plot=table.plot,
        columns=[column.title for column in table.columns],
        lines=[
            LineSummary(
                line.name,
                _changes(base, line),
                [
                    CellSummary(
                        **vars(spread(values[line.name, column.title])),
                        paper=_paper(line, k),
                        interval=_interval(outcomes[table.name, line.name], line.method, column.metric),
                    )
                    for k, column in enumerate(table.columns)
                ],
            )
            for line in table.lines
        ],
        claims=[
            ClaimSummary(
                claim.higher,
                claim.lower,
                claim.same,
                claim.says,
                _in_words(claim, verdict.verdict, means),
                *verdict,
            )
            for claim, verdict in judged
        ],
        verdict=overall([verdict.verdict for _, verdict in judged]),
        sentence=sentence(judged, means),
    )


def judge(claim: Claim, higher: Sequence[float | None], lower: Sequence[float | None]) -> Verdict:
    """Does a claim hold?

    Args:
        claim: to judge.
        higher: the number claimed to be higher, seed by seed.
        lower: the other.
    """
    from scipy.stats import t

    pairs = [(a, b) for a, b in zip(higher, lower, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:  # one seed has no spread
        return Verdict(UNKNOWN, pairs[0][0] - pairs[0][1] if pairs else None, None)
    one, other = np.array(pairs).T
    difference, margin = float((one - other).mean()), float((one - other).std(ddof=1))
    margin *= float(t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1)) / len(pairs) ** 0.5
    larger = float(max(abs(one.mean()), abs(other.mean())))
    if claim.same:
        allowed = SAME * larger
        near, far = abs(difference) + margin <= allowed, abs(difference) - margin > allowed
    else:
        margin = max(margin, claim.least * larger)
        near, far = difference > margin, difference < -margin
    return Verdict(HOLDS if near else FAILS if far else NOISE, difference, margin)


def overall(verdicts: Sequence[str]) -> str:
    """Of a table: it holds only if every claim does, and does not as soon as one does not."""
    for verdict in (FAILS, UNKNOWN, NOISE):
        if verdict in verdicts:
            return verdict
    return HOLDS if verdicts else UNKNOWN


def sentence(judged: Sequence[tuple[Claim, Verdict]], means: Mapping[tuple[str, str], float | None]) -> str:
    """A sentence: does the paper's ordering hold on these data, and which comparisons fail by the most?

    Args:
        judged: the claims.
        means: of each (line, column).
    """
    verdicts = [found.verdict for _, found in judged]
    head = {
        HOLDS: "The paper's ordering holds on these data",
        FAILS: "The paper's ordering does not hold in full on these data",
        NOISE: "Nothing here contradicts the paper's ordering, but part of it is within the noise",
        UNKNOWN: "Whether the paper's ordering holds on these data is not known",
    }[overall(verdicts)]
    parts = [f"{head}: it does in {verdicts.count(HOLDS)} of {len(judged)} comparisons"]
    for verdict, words in (
        (FAILS, "not in {}"),
        (NOISE, "{} within the noise"),
        (UNKNOWN, "{} are not known, because a second seed or a measurement is missing"),
    ):
        if verdict in verdicts:
            parts.append(words.format(verdicts.count(verdict)))
    failing = [claim for claim, found in judged if found.verdict == FAILS]
    failing.sort(key=lambda claim: _relative(means[claim.higher] or 0.0, means[claim.lower] or 0.0))
    listed = "; ".join(_in_words(claim, FAILS, means) for claim in failing[:LISTED])
    among = "among them " if len(failing) > LISTED else ""
    return ", ".join(parts) + (f" ({among}{listed})" if listed else "") + "."


def spread(values: Sequence[float | None]) -> Spread:
    """Values by seed, their mean, and their standard deviation if there are two."""
    known = [value for value in values if value is not None]
    return Spread(
        list(values),
        float(np.mean(known)) if known else None,
        float(np.std(known, ddof=1)) if len(known) > 1 else None,
    )


def number(value: float | None) -> str:
    """A number as tables and sentences show it."""
    return "–" if value is None else f"{value:.4f}".removeprefix("0")  # noqa: RUF001


def _in_words(claim: Claim, verdict: str, means: Mapping[tuple[str, str], float | None]) -> str:
    """The two numbers and their relation; first the number that is higher in the paper."""
    (line, column), (other, other_column) = claim.higher, claim.lower
    one, two = number(means[claim.higher]), number(means[claim.lower])
    relation = "against" if verdict != FAILS else "differs from" if claim.same else "is below"
    if line == other:
        return f"{line}: {column} {one} {relation} {other_column} {two}"
    return f"{column}: {line} {one} {relation} {other} {two}"


def _relative(one: float, other: float) -> float:
    """How much `one` is above `other`, as a share of the larger."""
    return (one - other) / max(abs(one), abs(other))


def _number(numbers: Numbers | None, method: str, metric: str) -> float | None:
    """None where it was not measured, or is not a number: users without such a target have no recall."""
    value = (numbers or {}).get(method, {}).get(metric)
    return None if value is None or not np.isfinite(value) else value


def _interval(seeds: Sequence[Numbers | None], method: str, metric: str) -> list[float] | None:
    """The bootstrap interval over users, its ends averaged over seeds; None where there is none."""
    low, high = (
        spread([_number(n, method, f"{metric}_{end}") for n in seeds]).mean for end in ("low", "high")
    )
    return None if low is None or high is None else [low, high]


def _paper(line: Line, column: int) -> float | None:
    return line.paper[column] if column < len(line.paper) else None


def _changes(base: Config, line: Line) -> list[str]:
    return differences(to_dict(base), to_dict(line.variant.of(base, 0)))
