import runpy
from pathlib import Path

import pytest

from pinnerformer_jax.config import Config, ObjectiveConfig
from pinnerformer_jax.studies import paper, study_tables
from pinnerformer_jax.studies.cells import as_in_the_paper
from pinnerformer_jax.studies.study_table import BASE, RECALL, Claim, Column, Line, StudyTable, Variant

STUDIES = sorted((Path(__file__).parent.parent / "configs" / "studies").glob("*.py"))


def table(*lines, **settings):
    return StudyTable("t", "T", tuple(lines), (RECALL,), **settings)


def claim(higher, lower, column=RECALL.title, **settings):
    return Claim((higher, column), (lower, column), **settings)


def test_a_variant_changes_what_it_names_and_the_seed():
    base = Config(objective=ObjectiveConfig(positions=7))
    config = Variant(objective={"name": "sasrec"}, model={"layers": 3}).of(base, seed=2)
    assert (config.objective.name, config.model.layers, config.training.seed) == ("sasrec", 3, 2)
    assert config.objective.positions == 7
    assert BASE.of(base, 0) == base


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant(model={"depth": 3}), "unknown setting: .*depth"),
        (Variant(model={"layers": 0}), "model.layers"),
    ],
)
def test_a_variant_that_is_no_config_is_an_error(variant, message):
    with pytest.raises(ValueError, match=message):
        variant.of(Config(), 0)


def test_the_order_of_the_papers_numbers_is_claimed_where_they_differ():
    lines = [
        Line("a", paper=(0.100,)), Line("b", paper=(0.101,)), Line("c", paper=(0.200,)), Line("d"),
        Line("e", paper=(None,)),
    ]  # fmt: skip
    assert table(*lines).orderings() == [claim("c", "a"), claim("c", "b")]


def test_what_is_claimed_in_words_is_not_claimed_twice():
    same = claim("a", "c", same=True)
    lines = [Line("a", paper=(0.1,)), Line("c", paper=(0.2,))]
    assert table(*lines, claims=(same,)).orderings() == [same]


def test_a_claim_about_no_line_is_an_error():
    with pytest.raises(ValueError, match="a claim about 'z'"):
        table(Line("a"), claims=(claim("a", "z"),))
    with pytest.raises(ValueError, match="one name"):
        table(Line("a"), Line("a"))


def test_the_papers_ordering_of_objectives():
    found = [c for c in study_tables.objectives(14).orderings() if c.higher[1] == RECALL.title]
    pairs = {(c.higher[0], c.lower[0]) for c in found}
    assert ("Dense all action", "All action") in pairs
    assert ("SASRec", "Next action") in pairs
    half = "Dense all action, half the horizon"
    assert not {(half, "All action"), ("All action", half)} & pairs  # 0.4 % apart
    assert len(pairs) == 9


def test_what_staleness_costs_follows_from_the_table():
    lost = {line.name: line.paper[3] for line in study_tables.staleness().lines}
    assert round(lost["SASRec"], 3) == 0.139
    assert round(lost["PinnerFormer"], 3) == 0.080
    claims = study_tables.staleness().orderings()
    column = "lost, real time to daily"
    assert (("SASRec", column), ("PinnerFormer", column)) in [(c.higher, c.lower) for c in claims]
    assert Claim(("SASRec", "daily"), ("SASRec", "once")) in claims


def test_single_tasks_claim_what_the_paper_says():
    claims = study_tables.single_tasks(("repin", "click")).orderings()
    assert claims == [
        claim("Only repin", "Only click", "repin"),
        claim("Only click", "Only repin", "click"),
        claim("Only repin", "All actions", "repin"),
        claim("Only click", "All actions", "click"),
        claim("All actions", "Only click", "repin"),
        claim("All actions", "Only repin", "click"),
        claim("All actions", "Only repin"),
        claim("All actions", "Only click"),
    ]


def test_negatives_are_the_papers_six_and_three_of_ours():
    configs = {line.name: line.variant.of(Config(), 0).objective for line in study_tables.negatives().lines}
    assert [name for name in configs if name in paper.TABLE_4] == list(paper.TABLE_4)
    assert configs["Mixed, logQ"] == ObjectiveConfig()
    assert (configs["Random"].in_batch_negatives, configs["Random"].logq) == (0, False)
    assert (configs["In-batch, logQ"].random_negatives, configs["In-batch, logQ"].logq) == (0, True)
    assert configs["Two softmaxes"].pool == "separate"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_the_studies_that_come_along_is_a_config(path):
    built = runpy.run_path(str(path))
    base = as_in_the_paper(built["config"])
    trained = {str(line.variant.of(base, 0)) for table in built["tables"] for line in table.lines}
    assert len(trained) > 15
    metrics = {column for table in built["tables"] for column in table.columns}
    assert Column("Recall@10", "recall@10") in metrics
    assert all(table.orderings() for table in built["tables"])
