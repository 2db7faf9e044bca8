"""Plots of the report, as SVG to put inside a page: colours are the page's CSS variables, and what one points
at or taps says its numbers (hover/, tippy.js)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.evaluation.comparison import MODEL, OF_MODEL, SERVED, VECTORS
from pinnerformer_jax.evaluation.results import LengthRow, MetricRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_USERS = 10
"""A bucket of history lengths with fewer users is not drawn."""

_WORDS = {
    "loss": "training loss",
    "validation_loss": "validation loss",
    "validation_gain": "discounted gain of validation users",
}

# Placeholders that `_svg` replaces by the page's CSS variables, which differ in light and dark mode.
INK, MUTED, GRID, ACCENT, BAR = "#000001", "#000002", "#000003", "#000004", "#000005"
TIP = "tip "
"""An artist whose gid begins so carries the text that its place in the page shows."""
MOST_TIPS = 60
"""Points of a line that can be pointed at; of more, every so many."""
LINES = ("#000006", "#000007", "#000008", "#000009", "#00000a")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", BAR: "bar"} | {
    colour: f"line-{k}" for k, colour in enumerate(LINES)
}


def label(method: str) -> str:
    """A method's name, as tables and plots show it."""
    return {
        MODEL: "PinnerFormer",
        SERVED: "PinnerFormer, served",
        VECTORS: "PinnerFormer, priors in the vectors",
        "item_knn": "Item-kNN",
        "ease": "EASE",
        "own_then_knn": "Own most frequent, then item-kNN",
        "last_items_mean": "Mean of the last items' vectors",
        "last_items_served": "Mean of the last items' vectors, served",
        "pinnersage_mean": "PinnerSage, weighted mean",
    }.get(method, method.replace("_", " ").capitalize())


def loss_curve(lines: Sequence[Mapping[str, float]]) -> str | None:
    """Training and validation loss by step, and beside them the discounted gain of validation users if it was
    measured; None: nothing was logged."""
    measured = any("validation_gain" in line for line in lines)
    figure, panels = _figure(1 + measured, 5.8, 3.2)
    for axis, name, colour, title, style in (
        (0, "loss", MUTED, "training", "-"),
        (0, "validation_loss", ACCENT, "validation", "o-"),
        (1, "validation_gain", ACCENT, None, "o-"),
    ):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            panels[axis].plot(
                *zip(*points, strict=True), style, color=colour, label=title, markersize=4, linewidth=1.8
            )
            _tips(panels[axis], points, lambda x, y, name=name: f"step {x:,.0f}: {_WORDS[name]} {y:.4f}")
    if not panels[0].lines:
        return None
    for panel, title in zip(panels, ("loss", "discounted gain, validation"), strict=False):
        panel.set_xlabel("step")
        panel.set_ylabel(title)
    _legend(figure)
    return _svg(figure, "loss")


def recall_bars(title: str, rows: Sequence[MetricRow]) -> str:
    """Bars with intervals, the highest first. The model's rows have its colour.

    Args:
        title: of the protocol.
        rows: a method each, with intervals.
    """
    figure, (axes,) = _figure(1, 5.0, 0.36 * len(rows) + 0.7)
    rows = sorted(rows, key=lambda row: row.value)
    high = max([row.high or 0.0 for row in rows] + [1e-9])
    for k, row in enumerate(rows):
        own = row.method in OF_MODEL
        between = "" if row.low is None else f", 95 % interval {row.low:.4f} to {row.high:.4f}"
        (bar,) = axes.barh(
            k,
            row.value,
            0.66,
            color=ACCENT if own else BAR,
            alpha=0.5 if row.method in (VECTORS, MODEL) else 1,
        )
        bar.set_gid(f"{TIP}{label(row.method)}: {row.value:.4f}{between}; {row.n_users:,} users")
        axes.hlines(k, row.low, row.high, color=INK, linewidth=1)
        axes.text(
            (row.high or row.value) + 0.02 * high,
            k,
            f"{row.value:.3f}",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_yticks(range(len(rows)), [label(row.method).replace(", ", ",\n") for row in rows])
    axes.set_xlim(0, 1.2 * high)
    # Above the names, too: they are wide, and a title above the bars alone may not fit.
    figure.suptitle(title, x=0.02, ha="left", fontsize=10.5, color=INK)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(_ticks(4))
    return _svg(figure, title)


def recall_by_history(rows: Sequence[LengthRow]) -> str:
    """The paper's recall@10 by events of the user, a line a method; small buckets are left out."""
    figure, (axes,) = _figure(1, 5.8, 3.2)
    rows = [row for row in rows if row.n_users >= FEWEST_USERS] or rows
    buckets = list(dict.fromkeys(row.events for row in rows))
    users = {row.events: row.n_users for row in rows}
    for method, colour in _colours([row.method for row in rows]):
        points = [(buckets.index(row.events), row.recall) for row in rows if row.method == method]
        axes.plot(
            *zip(*points, strict=True), marker="o", color=colour, label=label(method), **_weight(method)
        )
        _tips(axes, points, lambda x, y, method=method: f"{label(method)}, {buckets[x]} events: {y:.4f}")
    axes.set_xticks(range(len(buckets)), [f"{name}\n({users[name]:,})" for name in buckets], fontsize=8)
    axes.set_xlabel("events up to t (users)")
    axes.set_ylabel("recall@10")
    axes.set_ylim(bottom=0)
    _legend(figure)
    return _svg(figure, "history")


def coverage_curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Share of all top-10 results that the most shown items account for, a line a method."""
    figure, (axes,) = _figure(1, 5.8, 3.2)
    for method, colour in _colours(list(curves)):
        axes.plot(*zip(*curves[method], strict=True), color=colour, label=label(method), **_weight(method))
        _tips(
            axes,
            curves[method],
            lambda x, y, method=method: f"{label(method)}: {x:.2%} of the index, {y:.1%} of the results",
        )
    axes.axhline(0.9, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.text(1, 0.885, "90 %", color=MUTED, fontsize=8, ha="right", va="top")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("share of the index, most shown first")
    axes.set_ylabel("share of top-10 results")
    _legend(figure)
    return _svg(figure, "coverage")


def spread(
    curves: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]], ylabel: str, salt: str
) -> str | None:
    """Means over seeds with their standard deviation, a line a method; what the paper has, dashed.

    Args:
        curves: by the name that is shown, or MODEL: (name on the x axis, "mean", "deviation" and "paper",
            each perhaps None).
        ylabel: the metric.
        salt: makes the ids of one figure of a page different from another's.

    Returns:
        None: there is nothing to draw.
    """
    figure, (axes,) = _figure(1, 5.8, 3.2)
    names = list(dict.fromkeys(name for curve in curves.values() for name, _ in curve))
    for method, colour in _colours(list(curves)):
        points = [(names.index(name), cell) for name, cell in curves[method]]
        title = label(method) if method == MODEL else method
        own = [(x, cell["mean"], cell["deviation"] or 0.0) for x, cell in points if cell["mean"] is not None]
        if own:
            x, mean, deviation = zip(*own, strict=True)
            axes.errorbar(x, mean, deviation, fmt="o-", color=colour, label=title, capsize=3)
            _tips(
                axes,
                list(zip(x, mean, strict=True)),
                lambda k, y, title=title: f"{title}, {names[k]}: {y:.4f}",
            )
        paper = [(x, cell["paper"]) for x, cell in points if cell["paper"] is not None]
        if own and len(paper) > 1:
            axes.plot(*zip(*paper, strict=True), ":", color=colour, label=f"{title}, paper")
    if not axes.lines:
        return None
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    _legend(figure)
    return _svg(figure, salt)


def gain_by_setting(setting: str, trials: Sequence[tuple[int, float, float]], *, logarithmic: bool) -> str:
    """Discounted gain of trials by the value of a setting; the first trial, the config's own, has the model's
    colour.

    Args:
        setting: its name.
        trials: number, value and gain of each.
        logarithmic: whether the axis is.
    """
    figure, (axes,) = _figure(1, 3.6, 2.4)
    for number, value, gain in trials:
        colour = ACCENT if number == 0 else BAR
        axes.plot([value], [gain], "o", color=colour, markersize=6, zorder=3 if number == 0 else 2)
        words = f"trial {number}: {setting} {value:.4g}, gain {gain:.4f}"
        _tips(axes, [(value, gain)], lambda x, y, words=words: words)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_ylabel("discounted gain")
    return _svg(figure, setting)


def _tips(axes: Axes, points: Sequence[Sequence[float]], words: Callable[[Any, float], str]) -> None:
    """Make the points of a line say their numbers: invisible marks that are easier to hit than the line."""
    for x, y in points[:: -(-len(points) // MOST_TIPS)]:
        axes.plot([x], [y], "o", color=INK, markersize=11, alpha=0, gid=TIP + words(x, y))


def _figure(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.patch.set_visible(False)
        axis.spines[:].set_visible(False)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(length=0, labelcolor=MUTED, labelsize=9)
        axis.xaxis.label.set(color=MUTED, fontsize=9)
        axis.yaxis.label.set(color=MUTED, fontsize=9)
    return figure, list(axes)


def _ticks(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count)


def _colours(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Colours by method: baselines first, so that the model's lines are drawn on top."""
    others = [method for method in dict.fromkeys(methods) if method not in OF_MODEL]
    own = [(method, ACCENT) for method in (MODEL, SERVED) if method in methods]
    return [(method, LINES[k % len(LINES)]) for k, method in enumerate(others)] + own


def _weight(method: str) -> dict[str, Any]:
    """Of a method's line; the inner product alone is dashed beside the served score."""
    if method in (MODEL, SERVED):
        return {"linewidth": 2.4, "markersize": 5, "linestyle": "--" if method == MODEL else "-"}
    return {"linewidth": 1.4, "markersize": 3, "linestyle": "-"}


def _legend(figure: Figure) -> None:
    """Above the plot, where no line runs."""
    figure.legend(frameon=False, fontsize=8, labelcolor=INK, loc="outside upper left", ncols=3)


def _svg(figure: Figure, salt: str) -> str:
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with $ in it is a name
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # HTML knows them, and a page names no address
    svg = svg.replace(f'id="{TIP}', 'tabindex="0" data-tippy-content="')
    return re.sub("#00000[1-9a]", lambda match: f"var(--{VARIABLES[match[0]]})", svg)
