import re

import pytest

from pinnerformer_jax.evaluation import figures
from pinnerformer_jax.evaluation.results import LengthRow, MetricRow

METHODS = ("pinnerformer", "random", "item_knn")
LINES = [
    LengthRow(method, events, 0.1, users, users)
    for method in METHODS
    for events, users in (("1-4", 3), ("5-9", 40), ("10-19", 50))
]


def check(svg):
    """Whole, to be put inside a page, of the page's colours and no address."""
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert "http" not in svg
    assert "#0000" not in svg
    assert not re.search(r"(?:fill|stroke): #(?!fff)", svg)
    assert set(re.findall(r"var\(--([\w-]+)\)", svg)) <= set(figures.VARIABLES.values())


def bars(values):
    return [
        MetricRow(m, "paper", "recall@10", v, 12, v * 0.9, v * 1.1)
        for m, v in zip(METHODS, values, strict=True)
    ]


def test_recall_bars_are_sorted_and_the_model_stands_out():
    svg = figures.recall_bars("Paper", bars([0.2, 0.01, 0.3]))
    check(svg)
    assert svg.count("var(--accent)") == 1
    assert re.findall(r">(PinnerFormer|Random|Item-kNN)<", svg) == ["Random", "PinnerFormer", "Item-kNN"]
    assert ">0.300<" in svg


def test_bars_of_nothing_but_zeros_draw():
    check(figures.recall_bars("Paper", bars([0.0, 0.0, 0.0])))


def test_history_leaves_small_buckets_out():
    svg = figures.recall_by_history(LINES)
    check(svg)
    assert "5-9" in svg
    assert "1-4" not in svg


def test_history_of_small_buckets_only_is_drawn_all_the_same():
    assert "1-4" in figures.recall_by_history([line for line in LINES if line.events == "1-4"])


def test_a_line_of_many_points_has_few_tips_and_names_are_escaped():
    curve = [[k / 500, k / 500] for k in range(501)]
    svg = figures.coverage_curves({'<"a" & b>': curve})
    check(svg)
    tips = re.findall(r'data-tippy-content="([^"]*)"', svg)
    assert len(tips) <= figures.MOST_TIPS
    assert all(tip.startswith("&lt;&quot;a&quot; &amp; b&gt;: ") for tip in tips)


def test_coverage_has_a_line_for_each_method():
    svg = figures.coverage_curves({method: [[0, 0], [0.5, 0.9], [1, 1]] for method in METHODS})
    check(svg)
    for method in METHODS:
        assert f">{figures.label(method)}<" in svg


def test_loss_curve_takes_what_there_is():
    assert figures.loss_curve([]) is None
    assert figures.loss_curve([{"step": 1, "users_per_second": 3.0}]) is None
    svg = figures.loss_curve(
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "validation_loss": 2.5}]
    )
    check(svg)
    assert ">validation<" in svg
    assert ">validation<" not in figures.loss_curve([{"step": 1, "loss": 3.0}])


def test_spread_draws_ours_and_the_papers():
    def cell(mean, deviation, paper):
        return {"mean": mean, "deviation": deviation, "paper": paper}

    curves = {
        "pinnerformer": [("once", cell(0.1, 0.01, 0.2)), ("daily", cell(0.2, None, 0.3))],
        "SASRec": [("once", cell(0.1, 0.01, None)), ("daily", cell(None, None, 0.3))],
        "never measured": [("once", cell(None, None, 0.2)), ("daily", cell(None, None, 0.3))],
    }
    svg = figures.spread(curves, "recall", "x")
    check(svg)
    for text in ("PinnerFormer", "PinnerFormer, paper", "SASRec", "once", "daily"):
        assert f">{text}<" in svg
    assert "SASRec, paper" not in svg  # one number of the paper is no line
    assert "never measured" not in svg
    assert figures.spread({"never": curves["never measured"]}, "recall", "x") is None


@pytest.mark.parametrize(
    ("method", "name"), [("pinnerformer", "PinnerFormer"), ("own_most_frequent", "Own most frequent")]
)
def test_labels_are_for_people(method, name):
    assert figures.label(method) == name


def test_a_name_with_a_dollar_is_no_mathematics():
    svg = figures.recall_bars("a $x^{ b$ c", bars([0.2, 0.01, 0.3]))
    assert ">a $x^{ b$ c<" in svg
