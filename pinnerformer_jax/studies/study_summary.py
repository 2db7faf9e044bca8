"""Over the seeds of a study: means, spreads, and whether what the paper claims holds on these data.

A claim compares two numbers, seed by seed. The margin is half of a 95 % t interval over the seeds, and at
least 2 % of the numbers: the users are a sample too, and seeds can agree by chance. The claim holds if the
mean difference is above the margin, does not hold if it is below minus the margin, and is within the noise
otherwise. A claim that two numbers are the same holds if the interval is within 5 % of them, and does not
hold if it is outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import differences, to_dict
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


def summarise(base: Config, tables: Sequence[StudyTable], outcomes: Outcomes, seeds: int) -> dict[str, Any]:
    """The contents of study.json, plain JSON types; they do not depend on the time or speed of the study."""
    return {
        "name": base.name,
        "seeds": seeds,
        "tables": [_table(base, table, outcomes) for table in tables],
        "config": to_dict(base),
    }


def _table(base: Config, table: StudyTable, outcomes: Outcomes) -> dict[str, Any]:
    values = {
        (line.name, column.title): [
            _number(numbers, line.method, column.metric) for numbers in outcomes[table.name, line.name]
        ]
        for line in table.lines
        for column in table.columns
    }
    judged = [(claim, judge(claim, values[claim.higher], values[claim.lower])) for claim in table.orderings()]
    means = {key: spread(seen)["mean"] for key, seen in values.items()}
    return {
        "name": table.name,
        "title": table.title,
        "note": table.note,
        "plot": table.plot,
        "columns": [column.title for column in table.columns],
        "lines": [
            {
                "name": line.name,
                "changes": _changes(base, line),
                "cells": [
                    {
                        "paper": _paper(line, k),
                        **spread(values[line.name, column.title]),
                        "interval": _interval(outcomes[table.name, line.name], line.method, column.metric),
                    }
                    for k, column in enumerate(table.columns)
                ],
            }
            for line in table.lines
        ],
        "claims": [claim_facts(claim, verdict, means) for claim, verdict in judged],
        "verdict": overall([verdict.verdict for _, verdict in judged]),
        "sentence": sentence(judged, means),
    }


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


def claim_facts(
    claim: Claim, verdict: Verdict, means: Mapping[tuple[str, str], float | None]
) -> dict[str, Any]:
    """A claim and its verdict, as JSON."""
    return {
        "higher": list(claim.higher),
        "lower": list(claim.lower),
        "same": claim.same,
        "says": claim.says,
        "found": _in_words(claim, verdict.verdict, means),
        **verdict._asdict(),
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Values by seed, their mean, and their standard deviation if there are two."""
    known = [value for value in values if value is not None]
    return {
        "values": list(values),
        "mean": float(np.mean(known)) if known else None,
        "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


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
    ends = [spread([_number(n, method, f"{metric}_{end}") for n in seeds])["mean"] for end in ("low", "high")]
    return None if None in ends else ends


def _paper(line: Line, column: int) -> float | None:
    return line.paper[column] if column < len(line.paper) else None


def _changes(base: Config, line: Line) -> list[str]:
    return differences(to_dict(base), to_dict(line.variant.of(base, 0)))
