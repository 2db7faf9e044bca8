import numpy as np
import pytest

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.contracts import (
    DAY,
    EPOCH,
    format_time,
    only_actions,
    parse_time,
    positive_table,
    to_device_time,
)
from pinnerformer_jax.model.features import ABSOLUTE_PERIODS

ACTIONS, SURFACES = ["", "repin", "closeup", "click", "hide"], ["", "homefeed", "search"]


def test_the_papers_rule_is_expressible():
    rules = (
        PositiveRule("repin", 0.0, "homefeed"),
        PositiveRule("closeup", 10.0, "homefeed"),
        PositiveRule("click", 10.0, "homefeed"),
    )
    table = positive_table(rules, ACTIONS, SURFACES)
    expected = np.full((5, 3), np.inf)
    expected[1:4, 1] = [0, 10, 10]
    np.testing.assert_array_equal(table, expected)


def test_any_rule_makes_a_positive_and_the_mildest_counts():
    table = positive_table((PositiveRule("click", 20.0), PositiveRule("", 5.0, "search")), ACTIONS, SURFACES)
    assert table[3].tolist() == [20.0, 20.0, 5.0]
    assert table[1].tolist() == [np.inf, np.inf, 5.0]


def test_a_rule_naming_an_action_the_log_lacks_says_which_there_are():
    with pytest.raises(ValueError, match=r"no action 'save' in the log; it has \['repin'"):
        positive_table((PositiveRule("save"),), ACTIONS, SURFACES)


def test_training_on_some_actions_takes_the_others_out_of_the_table():
    table = positive_table((PositiveRule("repin"), PositiveRule("click", 10.0)), ACTIONS, SURFACES)
    got = only_actions(table, ACTIONS, ("click",))
    assert got[3].tolist() == [10.0] * 3
    assert np.isinf(np.delete(got, 3, axis=0)).all()
    np.testing.assert_array_equal(only_actions(table, ACTIONS, ()), table)
    with pytest.raises(ValueError, match=r"target_actions: 'hide' is no positive .* \['repin', 'click'\]"):
        only_actions(table, ACTIONS, ("click", "hide"))


def test_device_epoch_is_a_multiple_of_every_absolute_period():
    assert not (EPOCH % ABSOLUTE_PERIODS.astype(np.int64)).any()


def test_device_time_is_exact_and_refuses_what_does_not_fit():
    seconds = np.array([parse_time("2026-11-24", "t"), EPOCH + 2**31 - 2])
    np.testing.assert_array_equal(to_device_time(seconds).astype(np.int64) + EPOCH, seconds)
    with pytest.raises(ValueError, match=r"1929\.\.2066"):
        to_device_time(np.array([EPOCH + 2**31]))


def test_times_read_and_print():
    assert parse_time("1970-01-02", "x") == DAY
    assert parse_time("1970-01-02T01:00:00+01:00", "x") == DAY
    assert format_time(DAY) == "1970-01-02T00:00:00Z"
    with pytest.raises(ValueError, match=r"data\.split_time = 'soon': write an ISO time"):
        parse_time("soon", "data.split_time")
