"""The tables of a study as Markdown: the content of study_report.py's page without its figures."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.studies.study_summary import (
    CellSummary,
    ClaimSummary,
    StudySummary,
    TableSummary,
    number,
)


def study_markdown(summary: StudySummary, lead: str, method: str) -> str:
    """The page.

    Args:
        summary: of the study.
        lead: what was trained and measured, in a sentence.
        method: how a comparison is judged.
    """
    parts = [f"# {summary.name}: the paper's tables beside ours", lead, method]
    parts += [f"Failed: {cell}: {reason}" for cell, reason in summary.failed.items()]
    if summary.argument:
        parts += ["## What the paper's argument rests on", _comparisons(summary.argument)]
    for table in summary.tables:
        parts += [f"## {table.title}", _numbers(table), table.sentence]
        if table.claims:
            parts.append(_folded("All comparisons", _comparisons(table.claims)))
        if table.note:
            parts.append(table.note)
    config = json.dumps(to_dict(summary.config), indent=2, ensure_ascii=False)
    return "\n\n".join([*parts, _folded("Config of the base", f"```json\n{config}\n```")]) + "\n"


def _numbers(table: TableSummary) -> str:
    """The paper's number and ours for each line and column; a line's settings where it changes some."""
    heads = [f"{column}, {whose}" for column in table.columns for whose in ("paper", "ours")]
    rows = [
        [
            line.name,
            *(text for cell in line.cells for text in (number(cell.paper), _ours(cell))),
            "; ".join(line.changes),
        ]
        for line in table.lines
    ]
    return _table(["", *heads, "change of the base config"], rows)


def _ours(cell: CellSummary) -> str:
    """`mean ± deviation [low, high]`, each where it is known."""
    deviation = f" ± {number(cell.deviation)}" if cell.deviation else ""
    interval = f" [{', '.join(map(number, cell.interval))}]" if cell.interval else ""
    return number(cell.mean) + deviation + interval


def _comparisons(claims: Sequence[ClaimSummary]) -> str:
    rows = [
        [
            f"{claim.says}: {claim.found}" if claim.says else claim.found,
            number(claim.difference),
            number(claim.margin),
            claim.verdict,
        ]
        for claim in claims
    ]
    return _table(["comparison", "difference", "margin", "verdict"], rows)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
