"""What an evaluation leaves behind: a table on the terminal, results.json and a page for the browser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pinnerformer_jax.evaluation import figures
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.files import write_json, write_text

PROTOCOLS = {
    "paper": "Paper",
    "by_action": "Paper, by action",
    "full": "Full catalogue",
    "new_items": "New items only",
}


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """One table a protocol, the best of each column in bold, and what was measured how."""
    for table in tables(results["rows"]):
        shown = Table(
            title=f"\n{table['title']}", title_justify="left", title_style="bold",
            box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim",
        )  # fmt: skip
        shown.add_column("method")
        for metric in table["metrics"]:
            # A table has to fit 80 columns; all intervals are in results.json and on the page.
            shown.add_column(metric.replace("hit_rate", "hit").replace("interest_", ""), justify="right")
        for line in table["lines"]:
            cells = []
            for metric, cell in zip(table["metrics"], line["cells"], strict=True):
                text = cell["value"] + (cell["interval"] if metric == "recall@10" else "")
                cells.append(f"[bold]{text}[/bold]" if cell["best"] else text)
            shown.add_row(line["name"], *cells, style="cyan" if line["method"] == MODEL else "")
        console.print(shown)
    console.print()
    console.print(sentence(results["protocol"]), highlight=False)
    console.print(scann_sentence(results["scann"]), highlight=False)
    if "staleness" in results:
        console.print(staleness_sentence(results["staleness"]), highlight=False)


def write_results(results: Mapping[str, Any], workdir: Path) -> Path:
    """Write DIR/results.json; its path."""
    path = workdir / "results.json"
    write_json(path, results)
    return path


def write_page(results: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], workdir: Path) -> Path:
    """Write DIR/report.html, whole in itself; its path.

    Args:
        results: as in results.json.
        examples: see examples.py.
        workdir: of the run; its metrics.jsonl gives the loss curve, if there is one.
    """
    bars = [
        (f"{title}: recall@10", [row for row in results["rows"] if _is(row, protocol, "recall@10")])
        for protocol, title in PROTOCOLS.items()
    ]
    page = render(
        Path(__file__).with_name("report.html"),
        name=results["config"]["name"],
        model=MODEL,
        cards=list(_cards(results)),
        bars=figures.recall_bars([(title, rows) for title, rows in bars if rows]),
        loss=figures.loss_curve(read_losses(workdir / "metrics.jsonl")),
        history=figures.recall_by_history(results["history_length"]),
        coverage=figures.coverage_curves(results["coverage_curve"]),
        tables=tables(results["rows"]),
        examples=examples,
        sentence=sentence(results["protocol"]),
        scann=results["scann"],
        scann_sentence=scann_sentence(results["scann"]),
        staleness=staleness_sentence(results["staleness"]) if "staleness" in results else "",
        definitions=results["protocol"]["definitions"],
        config=json.dumps(results["config"], indent=2, ensure_ascii=False),
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
    """Lines of a run's metrics; none if it left none. A last line cut short is passed over."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "step" in line:
            lines.append(line)
    return lines


def tables(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as one table a protocol: "title", "metrics" and "lines" of "cells", the model's line first."""
    found = []
    for protocol, title in PROTOCOLS.items():
        own = [row for row in rows if row["protocol"] == protocol]
        if not own:
            continue
        cell = {(row["method"], row["metric"]): row for row in own}
        metrics = list(dict.fromkeys(row["metric"] for row in own))
        methods = sorted(dict.fromkeys(row["method"] for row in own), key=lambda method: method != MODEL)
        ranked = [metric for metric in metrics if "entropy" not in metric and "coverage" not in metric]
        best = {metric: max(row["value"] for row in own if row["metric"] == metric) for metric in ranked}
        lines = [
            {
                "method": method,
                "name": figures.label(method),
                "cells": [_cell(cell.get((method, metric)), best.get(metric)) for metric in metrics],
            }
            for method in methods
        ]
        users = max(row["n_users"] for row in own)
        found.append({"title": f"{title} ({users:,} users)", "metrics": metrics, "lines": lines})
    return found


def sentence(facts: Mapping[str, Any]) -> str:
    """The protocol in words."""
    seen = "left out of the candidates" if facts["filter_seen"] else "kept among the candidates"
    return (
        f"{facts['users']:,} of {facts['eligible_users']:,} unseen users with an event up to t = "
        f"{facts['t']} and a reachable target in the {facts['window_days']:g} days after it; "
        f"{facts['pairs']:,} targets, "
        f"{facts['new_pairs']:,} of them new to the user; {facts['unreachable_pairs']:,} more are left out "
        f"because the item has no vector. Random index of {facts['index_size']:,} of "
        f"{facts['reachable_items']:,} items. Full catalogue: seen items are {seen}. Ties count against the "
        f"model. Topics: {facts['topics']}."
    )


def scann_sentence(scann: Mapping[str, Any]) -> str:
    """The two ways of retrieval in words."""
    if "error" in scann:
        return f"ScaNN: not measured: {scann['error']}"
    how = f"tree of {scann['leaves']:,} leaves, {scann['leaves_searched']:,} searched"
    how = (
        f"{how}{', SOAR' if scann['soar'] else ''}"
        if scann["leaves"]
        else "brute force, the catalogue is small"
    )
    return (
        f"Retrieval of {scann['k']} of {scann['items']:,} items: ScaNN ({how}) finds "
        f"{scann['recall']:.2%} of the exact neighbours at {scann['scann_qps']:,.0f} queries/s; exact on "
        f"{scann['device']} answers {scann['exact_qps']:,.0f} queries/s."
    )


def staleness_sentence(recall: Mapping[str, float]) -> str:
    """What a vector loses by its age, in words."""
    lost = 1 - recall["daily"] / recall["real time"] if recall["real time"] else 0.0
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in recall.items())
    return (
        f"Recall@10 of every positive event of the window, by how often the users are embedded: {numbers}. "
        f"Daily instead of in real time costs {lost:.1%}."
    )


def _cards(results: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Headline numbers of the model, each beside the best baseline's."""
    for protocol, metric, title in (
        ("paper", "recall@10", "Recall@10, paper"),
        ("new_items", "recall@10", "Recall@10, new items"),
        ("paper", "p90_coverage@10", "P90 coverage@10"),
        ("paper", "interest_entropy@50", "Interest entropy@50"),
    ):
        rows = {row["method"]: row for row in results["rows"] if _is(row, protocol, metric)}
        own = rows.pop(MODEL, None)
        if own is None:
            continue
        note = ""
        if metric == "recall@10" and rows:
            best = max(rows.values(), key=lambda row: row["value"])
            note = f"best baseline {best['value']:.3f} ({figures.label(best['method'])})"
        yield {"title": title, "value": f"{own['value']:.3f}", "note": note or "nats" * ("entropy" in metric)}


def _is(row: Mapping[str, Any], protocol: str, metric: str) -> bool:
    return row["protocol"] == protocol and row["metric"] == metric


def _cell(row: Mapping[str, Any] | None, best: float | None) -> dict[str, Any]:
    """A number as it is shown: "value", " ±half of its interval", and whether it is the "best"."""
    if row is None:
        return {"value": "", "interval": "", "best": False}
    interval = f" ±{(row['high'] - row['low']) / 2:.4f}" if "low" in row else ""
    return {"value": f"{row['value']:.4f}", "interval": interval, "best": row["value"] == best}
