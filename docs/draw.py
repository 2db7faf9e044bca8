"""Draw the two figures of the README: the way of the data, and the results on real data.

    python docs/draw.py

writes docs/towers.svg and docs/results.svg. The numbers of the second are read from the tables of
docs/results.md. Both are drawn on white and in large type, so that they can be read on a dark page and at the
width of a phone.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

DOCS = Path(__file__).parent
INK, MUTED, EDGE = "#16181d", "#667085", "#d5d9e0"
USER, ITEM, HIT = "#5046e4", "#0e8f80", "#e08a1e"
USER_SOFT, ITEM_SOFT, HIT_SOFT, GREY = "#eeedfd", "#dff4f1", "#fdf1df", "#e6e8ec"

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "svg.hashsalt": "pinnerformer_jax",  # the same bytes each time
        "text.color": INK,
        "axes.edgecolor": EDGE,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": INK,
    }
)


def draw_towers(path: Path) -> None:
    """The two towers, from a timeline to what is trained and what is served."""
    figure, axes = plt.subplots(figsize=(10, 10.4))
    axes.set(xlim=(0, 10), ylim=(0, 10.4))
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)

    axes.text(3.1, 9.95, "what a user did, up to day t", size=19, ha="center", weight="bold")
    axes.text(8.25, 9.95, "the next 28 days", size=19, ha="center", weight="bold")
    for k in range(8):
        _box(axes, 0.3 + 0.72 * k, 8.95, 0.58, 0.6, USER_SOFT, USER)
    for k, hit in enumerate((False, True, False, True)):
        _box(axes, 6.85 + 0.72 * k, 8.95, 0.58, 0.6, HIT_SOFT if hit else "white", HIT if hit else EDGE)
    axes.plot([6.4, 6.4], [8.6, 10.2], color=MUTED, ls=(0, (3, 3)), lw=2)
    axes.text(6.4, 8.28, "t", size=19, ha="center", color=MUTED, style="italic")

    _box(axes, 0.3, 6.95, 5.6, 1.0, "white", EDGE)
    axes.text(
        3.1, 7.45, "up to 256 actions: item vector,\naction, surface, duration, times",
        size=17, ha="center", va="center",
    )  # fmt: skip
    _box(axes, 6.85, 6.95, 2.75, 1.0, "white", EDGE)
    axes.text(8.22, 7.45, "item vector of\na positive", size=17, ha="center", va="center")
    _arrow(axes, (3.1, 8.8), (3.1, 8.05), USER)
    _arrow(axes, (7.86, 8.8), (7.86, 8.05), HIT)

    _box(axes, 0.3, 4.85, 5.6, 1.4, USER_SOFT, USER)
    axes.text(3.1, 5.82, "user tower", size=20, ha="center", va="center", weight="bold", color=USER)
    axes.text(3.1, 5.28, "causal Transformer + MLP", size=17, ha="center", va="center")
    _box(axes, 6.85, 4.85, 2.75, 1.4, ITEM_SOFT, ITEM)
    axes.text(8.22, 5.82, "item tower", size=20, ha="center", va="center", weight="bold", color=ITEM)
    axes.text(8.22, 5.28, "MLP", size=17, ha="center", va="center")
    _arrow(axes, (3.1, 6.9), (3.1, 6.33), USER)
    _arrow(axes, (8.22, 6.9), (8.22, 6.33), ITEM)

    axes.text(3.1, 3.95, "one vector a user", size=18, ha="center", va="center", color=USER, weight="bold")
    axes.text(8.22, 3.95, "one an item", size=18, ha="center", va="center", color=ITEM, weight="bold")
    _arrow(axes, (3.1, 4.78), (3.1, 4.25), USER)
    _arrow(axes, (8.22, 4.78), (8.22, 4.25), ITEM)

    training = (
        "inner product high for\nthe user's own positives,\nlow for random items and\nother users' positives"
    )
    serving = "embed who was active;\nvectors to the store,\nitems to the index:\nthe k nearest are shown"
    for left, title, text in ((0.3, "training", training), (5.1, "every night", serving)):
        _box(axes, left, 0.3, 4.5, 2.6, "#f6f7f9", EDGE)
        axes.text(left + 0.25, 2.5, title, size=19, weight="bold", va="center")
        axes.text(left + 0.25, 1.32, text, size=16.5, va="center", linespacing=1.35)
    for end in (2.55, 7.35):
        _arrow(axes, (3.1, 3.65), (end - 0.35, 2.98), USER)
        _arrow(axes, (8.22, 3.65), (end + 0.35, 2.98), ITEM)
    _save(figure, path)


def draw_results(page: Path, path: Path) -> None:
    """Recall@10 of each method on each data set of `page`, with its interval: all items, and new ones."""
    tables = read_tables(page.read_text(encoding="utf-8"))
    figure, panels = plt.subplots(len(tables), 1, figsize=(10, 11.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.2)
    for axes, (title, methods) in zip(panels, tables.items(), strict=True):
        names = list(methods)
        for shift, column, colour, marker, label in (
            (-0.16, 0, USER, "o", "all items (paper Recall@10)"),
            (0.16, 2, HIT, "D", "items new to the user"),
        ):
            means, margins = zip(*(methods[name][column] for name in names), strict=True)
            places = [k + shift for k in range(len(names))]
            axes.errorbar(
                means, places, xerr=margins, fmt=marker, color=colour, ms=9, lw=2.5, capsize=4, label=label
            )
        axes.set_title(title, size=20, weight="bold", loc="left", pad=12)
        axes.set_yticks(range(len(names)), names, size=17)
        for label in axes.get_yticklabels():
            if label.get_text().startswith("PinnerFormer"):
                label.set(weight="bold", color=USER)
        axes.tick_params(axis="x", labelsize=16)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.invert_yaxis()
        axes.grid(axis="x", color=GREY)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel("Recall@10, 95 % interval over users", size=17)
    names = panels[-1].get_legend_handles_labels()
    figure.legend(*names, fontsize=16, frameon=False, loc="outside lower center", ncols=2)
    _save(figure, path)


def read_tables(text: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By section and method: the (mean, margin) of each column of the section's table of `.052 ± .007`."""
    tables: dict[str, dict[str, list[tuple[float, float]]]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if line.startswith("|") and all("±" in cell for cell in cells[1:]):
            numbers = [re.findall(r"\.\d+", cell) for cell in cells[1:]]
            tables.setdefault(section, {})[cells[0]] = [
                (float(mean), float(margin)) for mean, margin in numbers
            ]
    return tables


def _box(axes: Axes, x: float, y: float, width: float, height: float, fill: str, edge: str) -> None:
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, lw=2)
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5, "mutation_scale": 22}
    )


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw_towers(DOCS / "towers.svg")
    draw_results(DOCS / "results.md", DOCS / "results.svg")
