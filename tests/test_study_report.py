import json
import re

import pytest

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.evaluation.results import ProtocolSummary
from pinnerformer_jax.studies import study_tables
from pinnerformer_jax.studies.study_markdown import study_markdown
from pinnerformer_jax.studies.study_report import METHOD, figure, study_page, write_study
from pinnerformer_jax.studies.study_summary import StudySummary, number, summarise_table


def outcomes(table, seeds=2):
    """Each line a little better than the one before."""
    return {
        (table.name, line.name): [
            {line.method: {column.metric: 0.1 + 0.01 * k + 0.001 * seed for column in table.columns}}
            for seed in range(seeds)
        ]
        for k, line in enumerate(table.lines)
    }


@pytest.fixture
def summary():
    tables = [study_tables.staleness(), study_tables.lengths((8, 16, 32)), study_tables.features()]
    protocol = ProtocolSummary(
        t="2026-11-18T00:00:00Z", window_end="2026-12-02T00:00:00Z", window_days=14.0, users=1234,
        eligible_users=1234, users_without_history=0, users_without_target=0, pairs=20, new_pairs=20,
        unreachable_pairs=0, items=60, reachable_items=60, index_size=60,
    )  # fmt: skip
    base = Config(name="a <b> name")
    return StudySummary(
        base.name,
        2,
        [summarise_table(base, table, outcomes(table)) for table in tables],
        base,
        protocol,
        {"features: No item vector, seed 1": "step 3: the loss is not finite"},
    )


def test_page_sets_the_paper_beside_ours(summary):
    page = study_page(summary, hours=1.25)
    assert "a &lt;b&gt; name" in page
    assert "1,234 unseen users" in page
    assert "1.2 hours in all" in page
    assert "Failed: features: No item vector, seed 1" in page
    once = re.search(r'<tr><td title="objective.name[^"]*">SASRec</td>(.*?)</tr>', page)[1]
    assert '<td class="paper">.1980</td><td>.1005<small> ±.0007</small></td>' in once
    for table in summary.tables:
        assert table.title in page
        assert table.sentence.replace("'", "&#39;") in page
    argument, comparisons = page.split("All comparisons</summary>")[:2]
    assert "Without item vectors coverage collapses" in argument
    assert re.search(r"Recall@10: 16 \.\d+ against 8 \.", page)
    assert not re.search(r"Recall@10: 16 \.\d+ against 8 \.", argument)
    assert "SASRec: daily" in comparisons
    assert summary.tables[1].held == 2  # each length is better than the one before
    assert '<span class="verdict hit">holds in 2 of 2</span>' in page
    assert page.split("<script>")[0].count("<svg") == 2
    assert "http" not in page.split("<script>")[0]
    assert len(page) < 200_000


def test_figures_are_of_the_tables_that_have_one(summary):
    staleness, lengths, features = summary.tables
    assert all(f">{name}<" in figure(staleness) for name in ("SASRec", "PinnerFormer", "real time"))
    assert ">SASRec, paper<" in figure(staleness)
    assert ">32<" in figure(lengths)
    assert figure(features) is None


def test_a_study_of_which_nothing_is_measured_yet_has_a_page():
    table = study_tables.lengths((8, 16))
    nothing = {(table.name, line.name): [None] for line in table.lines}
    found = summarise_table(Config(), table, nothing)
    assert found.verdict == "not measured"
    assert figure(found) is None


def test_all_files_are_written(summary, tmp_path):
    data, page, markdown = write_study(summary, 0.0, tmp_path)
    assert json.loads(data.read_text())["config"] == to_dict(Config(name="a <b> name"))
    assert page.read_text().rstrip().endswith("</html>")
    assert markdown.read_text().startswith("# a <b> name: the paper's tables beside ours")


def test_markdown_has_every_number_of_the_page(summary):
    text = study_markdown(summary, "The lead.", METHOD)
    assert "The lead." in text
    assert "Failed: features: No item vector, seed 1" in text
    assert re.search(r"^\| SASRec \| \.1980 \| \.1005 ± \.0007 \|.*objective\.name", text, re.MULTILINE)
    for table in summary.tables:
        assert f"## {table.title}\n\n| " in text
        assert table.sentence in text
        for claim in table.claims:
            assert f"{claim.found} | {number(claim.difference)} | {number(claim.margin)} |" in text
    widths = [
        {line.count(" | ") for line in rows.splitlines()} for rows in re.findall(r"(?:^\|.*\n)+", text, re.M)
    ]
    assert all(len(width) == 1 for width in widths)  # every row has the cells of its head
    assert len(widths) == 1 + 2 * len(summary.tables)  # the argument; numbers and comparisons of each
