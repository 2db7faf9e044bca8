"""The forms of an evaluation's results: a table on the terminal, results.json and a page for the browser."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.evaluation import figures
from pinnerformer_jax.evaluation.comparison import MODEL, OF_MODEL, SERVED, VECTORS
from pinnerformer_jax.evaluation.examples import Example
from pinnerformer_jax.evaluation.results import (
    DEFINITIONS,
    MetricRow,
    NotMeasured,
    Provenance,
    Results,
    RulesResult,
    ScannResult,
)
from pinnerformer_jax.files import checked_lines, write_json, write_text

PROTOCOLS = {
    "paper": "Paper",
    "by_action": "Paper, by action",
    "full": "Full catalogue",
    "new_items": "New items only",
}


CURVES = (SERVED, MODEL, "popularity", "item_knn", "own_most_frequent", "last_items_mean")
"""Methods that the page draws curves of; more could not be told apart."""

HIDING = {
    "popularity_hides_seen": "popularity",
    "ease_hides_seen": "EASE and item-kNN",
}
"""Baselines by the name of the constant that says whether they leave out what a user had."""


def _order(method: str) -> int:
    return OF_MODEL.index(method) if method in OF_MODEL else len(OF_MODEL)


class Cell(NamedTuple):
    """A number as a table shows it."""

    value: str
    interval: str  # " ±half of the interval", or ""
    best: bool  # of its column


class Line(NamedTuple):
    """One method in a table."""

    method: str
    name: str  # as it is shown
    cells: list[Cell]  # one a metric


class ProtocolTable(NamedTuple):
    """All methods under one protocol."""

    title: str
    metrics: list[str]
    lines: list[Line]  # the model's first


def print_results(results: Results, console: Console) -> None:
    """Print the verdict; then a table for each protocol, with the best value of each column in bold; then the
    protocol in words."""
    for sentence in results.verdict:
        console.print(f"[bold]{escape(sentence)}[/bold]", highlight=False)
    for table in tables(results.methods.rows):
        shown = Table(
            title=f"\n{escape(table.title)}", title_justify="left", title_style="bold",
            box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim",
        )  # fmt: skip
        shown.add_column("method")
        for metric in table.metrics:
            # A table has to fit 80 columns; all intervals are in results.json and on the page.
            name = metric.replace("hit_rate", "hit").replace("interest_", "")
            shown.add_column(escape(name), justify="right")
        for line in table.lines:
            cells = []
            for metric, cell in zip(table.metrics, line.cells, strict=True):
                text = cell.value + (cell.interval if metric == "recall@10" else "")
                cells.append(f"[bold]{text}[/bold]" if cell.best else text)
            shown.add_row(escape(line.name), *cells, style="cyan" if line.method in OF_MODEL else "")
        console.print(shown)
    console.print()
    for sentence in (
        checkpoint_sentence(results.provenance),
        protocol_sentence(results),
        priors_sentence(results),
        scann_sentence(results.scann),
        staleness_sentence(results.staleness),
        rules_sentence(results.rules),
    ):
        if sentence:
            console.print(escape(sentence), highlight=False)


def write_results(results: Results, workdir: Path) -> Path:
    """Write WORKDIR/results.json; its path."""
    path = workdir / "results.json"
    write_json(path, results.to_json())
    return path


def write_page(
    results: Results, examples: Sequence[Example], missed: Sequence[Example], workdir: Path
) -> Path:
    """Write WORKDIR/report.html, which needs no other file; its path.

    Args:
        results: of the evaluation.
        examples: users to show.
        missed: users for whom no target is retrieved, likewise.
        workdir: of the run. The loss curve is read from its metrics.jsonl, if there is one.
    """
    rows = results.methods.rows
    bars = [
        (f"{title}: recall@10", [row for row in rows if row.is_metric(protocol, "recall@10")])
        for protocol, title in PROTOCOLS.items()
    ]
    page = render(
        Path(__file__).with_name("report.html"),
        name=results.config.name,
        own=OF_MODEL,
        cards=list(_cards(rows)),
        bars=[figures.recall_bars(title, panel) for title, panel in bars if panel],
        loss=figures.loss_curve(read_losses(workdir / "metrics.jsonl")),
        history=figures.recall_by_history(
            [row for row in results.methods.history_length if row.method in CURVES]
        ),
        coverage=figures.coverage_curves(
            {name: curve for name, curve in results.methods.coverage_curve.items() if name in CURVES}
        ),
        tables=tables(rows),
        users=[("Users, drawn at random", examples), ("Active users of whom no target is found", missed)],
        verdict=results.verdict,
        sentence=protocol_sentence(results),
        priors=priors_sentence(results),
        checkpoint=checkpoint_sentence(results.provenance),
        scann=None if isinstance(results.scann, NotMeasured) else results.scann,
        scann_sentence=scann_sentence(results.scann),
        staleness=staleness_sentence(results.staleness),
        rules=rules_sentence(results.rules),
        definitions=DEFINITIONS,
        config=json.dumps(to_dict(results.config), indent=2, ensure_ascii=False),
    )
    path = workdir / "report.html"
    write_text(path, page)
    return path


def render(template: Path, **values: Any) -> str:
    """A page from a template, which may include those beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template.name).render(**values)


def read_losses(path: Path) -> list[dict[str, float]]:
    """Lines of a run's metrics.jsonl; [] if there is no file. Damaged lines are left out; their number is
    printed."""
    lines = [values for _, values in checked_lines(path)]
    if damaged := lines.count(None):
        print(f"{path}: {damaged} damaged lines are not in the report's curve", file=sys.stderr)
    return [values for values in lines if values and "step" in values]


def tables(rows: Sequence[MetricRow]) -> list[ProtocolTable]:
    """The rows as one table for each protocol that has any."""
    found = []
    for protocol, title in PROTOCOLS.items():
        own = [row for row in rows if row.protocol == protocol]
        if not own:
            continue
        by_key = {(row.method, row.metric): row for row in own}
        metrics = list(dict.fromkeys(row.metric for row in own))
        methods = sorted(dict.fromkeys(row.method for row in own), key=_order)
        ranked = [metric for metric in metrics if "entropy" not in metric and "coverage" not in metric]
        best = {metric: max(row.value for row in own if row.metric == metric) for metric in ranked}
        lines = [
            Line(
                method,
                figures.label(method),
                [_cell(by_key.get((method, metric)), best.get(metric)) for metric in metrics],
            )
            for method in methods
        ]
        users = max(row.n_users for row in own)
        found.append(ProtocolTable(f"{title} ({users:,} users)", metrics, lines))
    return found


def checkpoint_sentence(made: Provenance) -> str:
    """Which checkpoint was evaluated, in words."""
    best = {
        "gain": "highest discounted gain of validation users",
        "recall": "highest recall@10 of validation users",
        "loss": "lowest validation loss",
    }
    which = "last" if made.checkpoint == "last" else best[made.chosen_by]
    return (
        f"Checkpoint: step {made.step:,} ({which}); evaluated {made.date} with version {made.version}. It "
        "was trained without these users and without what came after t; train --final makes a model to serve "
        "from everything, with the same settings."
    )


def protocol_sentence(results: Results) -> str:
    """The protocol in words."""
    facts, filtered = results.protocol, results.config.evaluation.filter_seen
    seen = "left out of the candidates"
    if not filtered:
        seen = "kept among the candidates, unless a method leaves them out"
    return (
        f"{facts.users:,} of {facts.eligible_users:,} unseen users with an event before the training ends "
        f"(t = {facts.t}) and a reachable target in the {facts.window_days:g} days after it; "
        f"{facts.pairs:,} targets, "
        f"{facts.new_pairs:,} of them new to the user; {facts.unreachable_pairs:,} more are left out "
        f"because the item has no vector. Random index of {facts.index_size:,} of "
        f"{facts.reachable_items:,} items. Full catalogue: seen items are {seen}. Ties count against the "
        f"model. Topics: {results.topics}."
    )


def priors_sentence(results: Results) -> str:
    """The priors of the served score, how they were fitted, and which baselines hide what a user had."""
    hiding = [name for of, name in HIDING.items() if results.constants.get(of)]
    baselines = f" Of the baselines, {', '.join(hiding)} leave out what a user had, chosen likewise."
    vectors = f" Score by vectors: {results.priors.vectors_formula}." if results.priors.used else ""
    served = f"Served score: {results.priors.formula}; {results.priors_fit}."
    return served + vectors + (baselines if hiding else "")


def scann_sentence(scann: ScannResult | NotMeasured) -> str:
    """ScaNN beside exact search, in words."""
    if isinstance(scann, NotMeasured):
        return f"ScaNN: not measured: {scann.error}"
    how = "brute force, the catalogue is small"
    if scann.leaves:
        how = f"tree of {scann.leaves:,} leaves, {scann.leaves_searched:,} searched"
        how += ", SOAR" if scann.soar else ""
        how += f", in each of {scann.parts:,} parts" if scann.parts > 1 else ""
    return (
        f"Retrieval of {scann.k} of {scann.items:,} items: ScaNN ({how}) finds "
        f"{scann.recall:.2%} of the exact neighbours at {scann.scann_qps:,.0f} queries/s; exact on "
        f"{scann.device} answers {scann.exact_qps:,.0f} queries/s."
    )


def staleness_sentence(recall: Mapping[str, float] | None) -> str:
    """How much recall a vector loses by its age, in words; "" if it was not measured."""
    if recall is None:
        return ""
    lost = 1 - recall["daily"] / recall["real time"] if recall["real time"] else 0.0
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in recall.items())
    return (
        f"Recall@10 of every positive event of the window, by how often the users are embedded: {numbers}. "
        f"Daily instead of in real time costs {lost:.1%}."
    )


def rules_sentence(rules: RulesResult | None) -> str:
    """What rules of the shop change, in words; "" if none were given."""
    if rules is None:
        return ""
    found = [
        f"Rules of the shop: recall@{rules.k} over the full catalogue is {rules.recall_within:.4f} within "
        f"them and {rules.recall:.4f} without (difference {rules.recall_within - rules.recall:+.4f}, 95 % "
        f"interval {rules.difference_low:+.4f} to {rules.difference_high:+.4f})."
    ]
    if rules.forbidden_items:
        found.append(
            f"{rules.forbidden_items:,} of {rules.items:,} items may not be shown; they are "
            f"{rules.forbidden_targets:.1%} of the targets. Without the rules they would be "
            f"{rules.shown_forbidden:.1%} of the recommendations, and {rules.users_shown_forbidden:.1%} of "
            "the users would be shown one."
        )
    if rules.at_most is not None:
        found.append(
            f"At most {rules.at_most} items of a category: the lists of {rules.users_beyond_cap:.1%} of the "
            "users have more without the cap."
        )
    return " ".join(found)


def _cards(rows: Sequence[MetricRow]) -> Iterator[dict[str, str]]:
    """Headline numbers of what is served, each beside the best baseline's."""
    for protocol, metric, title in (
        ("paper", "recall@10", "Recall@10, paper"),
        ("new_items", "recall@10", "Recall@10, new items"),
        ("paper", "p90_coverage@10", "P90 coverage@10"),
        ("paper", "interest_entropy@50", "Interest entropy@50"),
    ):
        by_method = {row.method: row for row in rows if row.is_metric(protocol, metric)}
        alone = by_method.pop(MODEL, None)
        own = by_method.pop(SERVED, alone)
        by_method.pop(VECTORS, None)
        if own is None:
            continue
        note = "nats" if "entropy" in metric else ""
        if metric == "recall@10" and by_method:
            best = max(by_method.values(), key=lambda row: row.value)
            note = f"best baseline {best.value:.3f} ({figures.label(best.method)})"
        yield {"title": title, "value": f"{own.value:.3f}", "note": note}


def _cell(row: MetricRow | None, best: float | None) -> Cell:
    if row is None:
        return Cell("", "", False)
    interval = "" if row.low is None or row.high is None else f" ±{(row.high - row.low) / 2:.4f}"
    return Cell(f"{row.value:.4f}", interval, row.value == best)
