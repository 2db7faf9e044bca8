"""The results of a study as files: study.json, and a page with the paper's tables beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pinnerformer_jax.evaluation import figures
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.evaluation.report import render
from pinnerformer_jax.files import write_json, write_text
from pinnerformer_jax.studies.study_summary import FAILS, HOLDS, number


def write_study(summary: Mapping[str, Any], hours: float, workdir: Path) -> tuple[Path, Path]:
    """Write WORKDIR/study.json and report.html; their paths.

    Args:
        summary: see study_summary.py, with "protocol" and "failed".
        hours: that training and measuring took.
        workdir: of the study.
    """
    data, page = workdir / "study.json", workdir / "report.html"
    write_json(data, summary)
    write_text(page, study_page(summary, hours))
    return data, page


def study_page(summary: Mapping[str, Any], hours: float) -> str:
    """The page, whole in itself."""
    training, data = summary["config"]["training"], summary["protocol"]
    lead = (
        f"{summary['seeds']} seeds of {training['steps']:,} steps of {training['batch_size']:,} users; "
        f"{data['users']:,} unseen users with {data['pairs']:,} targets in the {data['window_days']:g} days "
        f"after {data['t'][:10]}, {data['reachable_items']:,} items. {hours:.1f} hours in all."
    )
    return render(
        Path(__file__).with_name("study.html"),
        name=summary["name"],
        lead=lead,
        tables=[table | {"figure": figure(table), "held": held(table)} for table in summary["tables"]],
        argument=[claim for table in summary["tables"] for claim in table["claims"] if claim["says"]],
        failed=summary["failed"],
        number=number,
        colours={HOLDS: "hit", FAILS: "miss"},
        config=json.dumps(summary["config"], indent=2, ensure_ascii=False),
    )


def held(table: Mapping[str, Any]) -> int:
    """How many of the paper's comparisons hold."""
    return sum(claim["verdict"] == HOLDS for claim in table["claims"])


def figure(table: Mapping[str, Any]) -> str | None:
    """The table's plot, if it has one: its first column along its lines, or its lines along the columns that
    hold the same metric."""
    if table["plot"] == "by line":
        own = [(line["name"], line["cells"][0]) for line in table["lines"]]
        return figures.spread({MODEL: own}, table["columns"][0], table["name"])
    if table["plot"] == "by column":
        columns = [title for title in table["columns"] if not title.startswith("lost")]
        curves = {
            MODEL if line["name"] == figures.label(MODEL) else line["name"]: list(
                zip(columns, line["cells"], strict=False)
            )
            for line in table["lines"]
        }
        return figures.spread(curves, "Recall@10", table["name"])
    return None
