import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from pinnerformer_jax.config import Config, EvaluationConfig
from pinnerformer_jax.evaluation.baselines import Constants
from pinnerformer_jax.evaluation.examples import Example, ExampleEvent, ExampleItem
from pinnerformer_jax.evaluation.report import (
    HIDING,
    print_results,
    read_losses,
    scann_sentence,
    tables,
    write_page,
    write_results,
)
from pinnerformer_jax.evaluation.results import (
    LengthRow,
    MethodResults,
    MetricRow,
    NotMeasured,
    ProtocolSummary,
    Provenance,
    Results,
    ScannResult,
)

METHODS = {"popularity": 0.2, "pinnerformer": 0.4, "random": 0.0}


def row(method, protocol, metric, value, **interval):
    return MetricRow(method, protocol, metric, value, 12, **interval)


@pytest.fixture
def results():
    rows = [
        row(method, protocol, "recall@10", value, low=value - 0.01, high=value + 0.01)
        for method, value in METHODS.items()
        for protocol in ("paper", "full", "new_items")
    ] + [row(method, "paper", "p90_coverage@10", 0.3) for method in METHODS]
    return Results(
        provenance=Provenance(
            "2026-11-26T08:00:00+00:00", "0.1.0", "best", "loss", 1234, "d", "c", "0.10", ["cpu"]
        ),
        methods=MethodResults(
            rows,
            [LengthRow(method, "1-4", value, 12, 20) for method, value in METHODS.items()],
            {method: [[0.0, 0.0], [1.0, 1.0]] for method in METHODS},
        ),
        protocol=ProtocolSummary(
            t="2026-11-18T00:00:00Z", window_end="2026-12-02T00:00:00Z", window_days=14.0, users=12,
            eligible_users=15, users_without_history=1, users_without_target=2, pairs=20, new_pairs=9,
            unreachable_pairs=3, items=64, reachable_items=60, index_size=50,
        ),
        topics="4 topics of the catalogue",
        scann=ScannResult(10, 60, 0.987, 900.0, 5000.0, "cpu", 0, 0, 0, False),
        config=Config(name="a <b>bold</b> name"),
    )  # fmt: skip


EXAMPLES = [
    Example(
        user="<u>",
        events=1234,
        history=[ExampleEvent("Tea & <i>cake</i>", "2026-11-01T00:00:00Z")],
        retrieved=[
            ExampleItem("Found one", True, False, [ExampleEvent("Carrier", "2026-10-30T00:00:00Z")]),
            ExampleItem("Known one", False, True, []),
        ],
        targets=[ExampleItem(f"wanted {k}", False, False, []) for k in range(13)],
    )
]


def text(results, width=200):
    console = Console(file=io.StringIO(), width=width)
    print_results(results, console)
    return console.file.getvalue()


def test_tables_put_the_model_first_and_mark_the_best(results):
    paper = tables(results.methods.rows)[0]
    assert paper.title == "Paper (12 users)"
    assert [line.name for line in paper.lines] == ["PinnerFormer", "Popularity", "Random"]
    assert paper.metrics == ["recall@10", "p90_coverage@10"]
    assert [cell.best for cell in paper.lines[0].cells] == [True, False]  # coverage has no best
    assert paper.lines[0].cells[0] == ("0.4000", " ±0.0100", True)
    assert paper.lines[0].cells[1].interval == ""


def test_a_protocol_without_users_has_no_table(results):
    results.methods.rows[:] = [row for row in results.methods.rows if row.protocol != "new_items"]
    titles = [table.title for table in tables(results.methods.rows)]
    assert titles == ["Paper (12 users)", "Full catalogue (12 users)"]
    assert "New items" not in text(results)


def test_names_of_the_log_are_printed_as_they_are(results):
    """The terminal's library takes words in brackets for markup, and fails at a closing one."""
    results.methods.rows.append(row("pinnerformer", "by_action", "recall@10 [buy]", 0.5))
    results.methods.rows.append(row("pinnerformer", "by_action", "recall@10 [/view]", 0.5))
    results = dataclasses.replace(results, verdict=["Of [all] items [/view] leads."], priors_fit="by [/fit]")
    printed = text(results)
    for name in ("[buy]", "[/view]", "Of [all] items [/view] leads.", "by [/fit]"):
        assert name in printed


def test_terminal_states_the_protocol(results):
    printed = " ".join(text(results).split())
    assert "12 of 15 unseen users" in printed
    assert "3 more are left out because the item has no vector" in printed
    assert "seen items are kept among the candidates" in printed
    assert "Ties count against the model" in printed
    assert "ScaNN (brute force, the catalogue is small) finds 98.70% of the exact" in printed
    assert "5,000 queries/s" in printed
    filtering = dataclasses.replace(results.config, evaluation=EvaluationConfig(filter_seen=True))
    printed = " ".join(text(dataclasses.replace(results, config=filtering)).split())
    assert "seen items are left out of the candidates" in printed


def test_terminal_says_which_baselines_hide_what_a_user_had(results):
    assert set(HIDING) <= set(Constants._fields)
    said = "Of the baselines, EASE and item-kNN leave out what a user had, chosen likewise."
    for hides in (False, True):
        constants = Constants(ease_hides_seen=hides)._asdict()
        printed = " ".join(text(dataclasses.replace(results, constants=constants)).split())
        assert (said in printed) == hides


def test_terminal_and_page_state_the_checkpoint(results, tmp_path):
    said = "Checkpoint: step 1,234 (lowest validation loss); evaluated 2026-11-26T08:00:00+00:00"
    assert said in " ".join(text(results).split())
    assert said in write_page(results, EXAMPLES, [], tmp_path).read_text()


def test_tables_fit_a_terminal_of_80_columns(results):
    for protocol in ("full", "new_items"):
        for metric in ("ndcg@10", "hit_rate@10", "recall@50", "ndcg@50", "hit_rate@50"):
            results.methods.rows.append(row("own_most_frequent", protocol, metric, 0.1234, low=0.1, high=0.2))
    printed = text(results, width=80)
    assert "hit@50" in printed
    assert "…" not in printed
    assert printed.count("Own most frequent") == 2


def test_scann_that_does_not_load_is_said(results):
    assert "no AVX" in scann_sentence(NotMeasured("no AVX"))
    tree = dataclasses.replace(results.scann, leaves=1000, leaves_searched=100, soar=True)
    assert "(tree of 1,000 leaves, 100 searched, SOAR)" in scann_sentence(tree)
    parts = scann_sentence(dataclasses.replace(tree, parts=4))
    assert "(tree of 1,000 leaves, 100 searched, SOAR, in each of 4 parts)" in parts


def test_results_are_plain_json_with_the_promised_rows(results, tmp_path):
    path = write_results(results, tmp_path)
    assert path == tmp_path / "results.json"
    read = json.loads(path.read_text())
    assert read == results.to_json()
    assert (read["date"], read["checkpoint"], read["step"]) == ("2026-11-26T08:00:00+00:00", "best", 1234)
    assert {"version", "data", "config_digest", "jax", "devices", "config"} <= read.keys()
    assert read["protocol"]["filter_seen"] is False
    assert "staleness" not in read
    assert read["history_length"][0] == {
        "method": "popularity", "events": "1-4", "recall@10": 0.2, "n_users": 12, "n_pairs": 20,
    }  # fmt: skip
    for line in read["rows"]:
        assert {"method", "protocol", "metric", "value", "n_users"} <= line.keys()
        assert ("low" in line) == (line["metric"] == "recall@10")


def test_page_is_whole_in_itself(results, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "validation_loss": 2.5}\n')
    page, script = write_page(results, EXAMPLES, [], tmp_path).read_text().split("<script>")
    assert not re.search(r"https?:|//\w|src=|@import|url\((?!#)", page)
    assert set(re.findall(r"https?:[^\"']*", script)) == {"http://www.w3.org/2000/svg"}  # a namespace
    tips = re.findall(r'data-tippy-content="([^"]*)"', page)
    assert "PinnerFormer: 0.4000, 95 % interval 0.3900 to 0.4100; 12 users" in tips
    assert "step 2: validation loss 2.5000" in tips
    assert "Popularity: 100.00% of the index, 100.0% of the results" in tips
    assert page.count("<svg") == 6
    assert "prefers-color-scheme: dark" in page
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"(--[\w-]+):", page))


def test_page_escapes_what_comes_from_the_log(results, tmp_path):
    page = write_page(results, EXAMPLES, [], tmp_path).read_text()
    assert "Tea &amp; &lt;i&gt;cake&lt;/i&gt;" in page
    assert "User &lt;u&gt;" in page
    assert "<b>bold</b>" not in page


def test_page_tells_examples_and_headlines(results, tmp_path):
    page = write_page(results, EXAMPLES, [], tmp_path).read_text()
    assert "no target is found" not in page
    assert "no target is found" in write_page(results, [], EXAMPLES, tmp_path).read_text()
    assert "1,234 events" in page
    assert "✓ hit" in page
    assert page.count('<li class="hit">') == 1
    assert "and 3 more" in page
    assert "best baseline 0.200 (Popularity)" in page
    assert "<h3>Training</h3>" not in page  # no metrics.jsonl: no curve


def test_page_without_scann(results, tmp_path):
    results = dataclasses.replace(results, scann=NotMeasured("ScaNN does not load here"))
    assert "ScaNN does not load here" in write_page(results, EXAMPLES, [], tmp_path).read_text()


def test_losses_tolerate_absence_and_a_line_cut_short(tmp_path):
    assert read_losses(tmp_path / "none") == []
    (tmp_path / "m").write_text('{"step": 1, "loss": 2.0}\n{"note": 1}\n{"step": 2, "lo')
    assert read_losses(tmp_path / "m") == [{"step": 1, "loss": 2.0}]
