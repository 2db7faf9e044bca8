import itertools

import numpy as np
import pytest

from pinnerformer_jax.config import Config
from pinnerformer_jax.studies.study_summary import (
    FAILS,
    HOLDS,
    NOISE,
    UNKNOWN,
    Spread,
    Verdict,
    judge,
    number,
    overall,
    sentence,
    spread,
    summarise_table,
)
from pinnerformer_jax.studies.study_table import RECALL, Claim, Line, StudyTable, Variant

CLAIM = Claim(("a", RECALL.title), ("b", RECALL.title))
EQUAL = Claim(("a", RECALL.title), ("b", RECALL.title), same=True)


def test_margin_is_that_of_a_t_interval_over_seeds():
    found = judge(CLAIM, [0.13, 0.14, 0.15], [0.10, 0.12, 0.11])
    assert found.difference == pytest.approx(0.03)
    assert found.margin == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)  # t of 2 degrees, deviation 0.01
    assert found.verdict == HOLDS


@pytest.mark.parametrize(
    ("higher", "lower", "verdict"),
    [
        ([0.13, 0.14, 0.15], [0.10, 0.12, 0.11], HOLDS),
        ([0.10, 0.12, 0.11], [0.13, 0.14, 0.15], FAILS),
        ([0.13, 0.10, 0.15], [0.12, 0.12, 0.12], NOISE),
        ([0.13, None, 0.15], [0.10, 0.12, None], UNKNOWN),  # one pair
        ([0.13], [0.10], UNKNOWN),
        ([None, None], [0.1, 0.1], UNKNOWN),
        ([0.2, 0.2], [0.1, 0.1], HOLDS),  # no spread at all
        ([0.1, 0.1], [0.1, 0.1], NOISE),
        ([0.101, 0.101], [0.1, 0.1], NOISE),  # seeds that agree by chance on 1 %
    ],
)
def test_verdicts(higher, lower, verdict):
    assert judge(CLAIM, higher, lower).verdict == verdict


def test_a_claim_may_do_with_less_than_two_percent():
    claim = Claim(CLAIM.higher, CLAIM.lower, least=0.0)
    assert judge(claim, [0.101, 0.101], [0.1, 0.1]).verdict == HOLDS


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ([0.100, 0.101, 0.102], [0.101, 0.102, 0.103], HOLDS),  # 1 % apart, each time
        ([0.100, 0.101, 0.102], [0.120, 0.121, 0.122], FAILS),
        ([0.100, 0.120, 0.110], [0.110, 0.100, 0.120], NOISE),
    ],
)
def test_sameness_is_within_five_percent(one, other, verdict):
    assert judge(EQUAL, one, other).verdict == verdict


def test_a_table_holds_if_everything_does():
    assert overall([HOLDS, HOLDS]) == HOLDS
    assert overall([HOLDS, NOISE]) == NOISE
    assert overall([HOLDS, NOISE, UNKNOWN]) == UNKNOWN
    assert overall([HOLDS, NOISE, UNKNOWN, FAILS]) == FAILS
    assert overall([]) == UNKNOWN


def table(claims=()):
    lines = (
        Line("a", paper=(0.3,)),
        Line("b", Variant(model={"layers": 2}), (0.2,)),
        Line("c", paper=(0.1,)),
    )
    return StudyTable("t", "T", lines, (RECALL,), claims=claims)


def outcomes(**recalls):
    return {
        ("t", name): [value if value is None else {"pinnerformer": {"recall@10": value}} for value in values]
        for name, values in recalls.items()
    }


def told(**recalls):
    found = summarise_table(Config(), table(), outcomes(**recalls))
    return found.verdict, found.sentence


def test_sentence_that_holds():
    assert told(a=[0.5, 0.51, 0.52], b=[0.4, 0.41, 0.42], c=[0.1, 0.11, 0.12]) == (
        HOLDS,
        "The paper's ordering holds on these data: it does in 3 of 3 comparisons.",
    )


def test_sentence_that_does_not_and_says_where():
    assert told(a=[0.1, 0.11, 0.12], b=[0.4, 0.41, 0.42], c=[0.1, 0.3, 0.05]) == (
        FAILS,
        "The paper's ordering does not hold in full on these data: it does in 0 of 3 comparisons, not in 1, "
        "2 within the noise (Recall@10: a .1100 is below b .4100).",
    )


def test_sentence_of_what_is_missing():
    verdict, text = told(a=[0.5, 0.5, 0.5], b=[0.4, 0.4, 0.4], c=[None, None, None])
    assert verdict == UNKNOWN
    assert text.startswith("Whether the paper's ordering holds on these data is not known: it does in 1 of 3")
    assert text.endswith("2 are not known, because a second seed or a measurement is missing.")


def test_sentence_tells_three_failures_the_worst_first():
    names = "abcde"
    claims = [Claim((one, "r"), (other, "r")) for one, other in itertools.pairwise(names)]
    judged = [(claim, Verdict(FAILS, -0.1, 0.01)) for claim in claims]
    means = {(name, "r"): value for name, value in zip(names, (0.1, 0.2, 0.3, 0.9, 1.0), strict=True)}
    text = sentence(judged, means)
    assert "not in 4 (among them r: c .3000 is below d .9000; r: a .1000 is below b .2000; r: b" in text
    assert "is below e" not in text


def test_sentence_of_two_columns_of_one_line():
    claim = Claim(("a", "daily"), ("a", "once"))
    verdict = judge(claim, [0.1, 0.1], [0.2, 0.2])
    text = sentence([(claim, verdict)], {claim.higher: 0.1, claim.lower: 0.2})
    assert "(a: daily .1000 is below once .2000)" in text


def test_lines_say_what_they_change_and_cells_what_the_seeds_gave():
    shown = outcomes(a=[0.1, 0.2, None], b=[0.1, 0.1, 0.1], c=[None] * 3)
    shown["t", "b"][0]["pinnerformer"] |= {"recall@10_low": 0.05, "recall@10_high": 0.3}
    a, b, c = summarise_table(Config(), table(), shown).lines
    assert b.changes == ["model.layers: 6 -> 2"]
    assert a.cells[0].paper == 0.3
    assert a.cells[0].mean == pytest.approx(0.15)
    assert a.cells[0].deviation == pytest.approx(np.std([0.1, 0.2], ddof=1))
    assert a.cells[0].interval is None
    assert b.cells[0].interval == [0.05, 0.3]
    assert c.cells[0].mean is None


def test_spread_of_one_seed_has_no_deviation():
    assert spread([0.5]) == Spread([0.5], 0.5, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, ".1234"), (10.0, "10.0000"), (1.5, "1.5000"), (0.0, ".0000"), (-0.04, "-0.0400")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
