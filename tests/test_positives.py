"""What a positive is: the table and the SQL condition agree."""

import itertools

import duckdb
import jax.numpy as jnp
import numpy as np
import pytest

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.positives import is_positive, only_actions, positive_sql, positive_table

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


def test_table_and_sql_agree():
    names = ["", "don't", "click"]
    rules = (
        PositiveRule("don't", 0.1, "homefeed"),
        PositiveRule("click", 20.0),
        PositiveRule("", 30.0, "search"),
    )
    table = positive_table(rules, names, SURFACES)
    cases = list(itertools.product(range(3), range(3), np.array([0, 0.1, 19.9, 20, 30], np.float32)))
    action, surface, duration = (np.array(column) for column in zip(*cases, strict=True))
    action, surface = action.astype(np.uint8), surface.astype(np.uint8)
    found = is_positive(table, action, surface, duration)
    assert 0 < found.sum() < len(found)
    np.testing.assert_array_equal(is_positive(*map(jnp.asarray, (table, action, surface, duration))), found)
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE events (action TEXT, surface TEXT, duration FLOAT)")
        rows = [(names[a], SURFACES[s], float(d)) for a, s, d in cases]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        query = f"SELECT {positive_sql(rules)} FROM events"
        assert [positive for (positive,) in connection.execute(query).fetchall()] == found.tolist()
