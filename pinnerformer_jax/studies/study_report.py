"""The results of a study: study.json, and the paper's tables beside ours, as a page and in Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.evaluation import figures
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.evaluation.report import render
from pinnerformer_jax.files import write_json, write_text
from pinnerformer_jax.studies.study_markdown import study_markdown
from pinnerformer_jax.studies.study_summary import FAILS, HOLDS, StudySummary, TableSummary, number

METHOD = (
    "Ours: mean over the seeds ± their standard deviation, none where it is zero; in brackets a 95 % "
    "bootstrap interval over users. Every line is one change of the same base config, trained for the "
    "same number of steps, its checkpoint of the lowest validation loss measured on the same unseen "
    "users, targets and items; the data do not vary, so the spread is that of training alone. A "
    "comparison holds if the mean difference, seed by seed, exceeds the margin of its 95 % t interval "
    "over the seeds and 2 % of the numbers (the ranker's: the margin alone), does not hold if it is below"
    " minus that, and is within the noise otherwise; comparisons are not corrected for their number. The "
    "paper's numbers that differ by less than 2 % count as no ordering. The paper's data are its authors'"
    " own: its numbers are here for their order, not for their size."
)


def write_study(summary: StudySummary, hours: float, workdir: Path) -> tuple[Path, Path, Path]:
    """Write WORKDIR/study.json, report.html and report.md; their paths.

    Args:
        summary: of the study.
        hours: that training and measuring took.
        workdir: of the study.
    """
    data, page, markdown = (workdir / name for name in ("study.json", "report.html", "report.md"))
    write_json(data, summary.to_json())
    write_text(page, study_page(summary, hours))
    write_text(markdown, study_markdown(summary, lead(summary, hours), METHOD))
    return data, page, markdown


def study_page(summary: StudySummary, hours: float) -> str:
    """The page, whole in itself."""
    return render(
        Path(__file__).with_name("study.html"),
        name=summary.name,
        lead=lead(summary, hours),
        method=METHOD,
        tables=[(table, figure(table)) for table in summary.tables],
        argument=summary.argument,
        failed=summary.failed,
        number=number,
        colours={HOLDS: "hit", FAILS: "miss"},
        config=json.dumps(to_dict(summary.config), indent=2, ensure_ascii=False),
    )


def lead(summary: StudySummary, hours: float) -> str:
    """What was trained and measured, and the hours that it took."""
    training, data = summary.config.training, summary.protocol
    return (
        f"{summary.seeds} seeds of {training.steps:,} steps of {training.batch_size:,} users; "
        f"{data.users:,} unseen users with {data.pairs:,} targets in the {data.window_days:g} days "
        f"after {data.t[:10]}, {data.reachable_items:,} items. {hours:.1f} hours in all."
    )


def figure(table: TableSummary) -> str | None:
    """The table's plot, if it has one: its first column along its lines, or its lines along the columns that
    hold the same metric."""
    if table.plot == "by line":
        own = [(line.name, asdict(line.cells[0])) for line in table.lines]
        return figures.spread({MODEL: own}, table.columns[0], table.name)
    if table.plot == "by column":
        columns = [title for title in table.columns if not title.startswith("lost")]
        curves = {
            MODEL if line.name == figures.label(MODEL) else line.name: list(
                zip(columns, map(asdict, line.cells), strict=False)
            )
            for line in table.lines
        }
        return figures.spread(curves, "Recall@10", table.name)
    return None
