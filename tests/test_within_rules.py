"""What rules of a shop change, on a made-up score of 40 items for two users."""

import dataclasses

import numpy as np
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import EvaluationConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, Timelines
from pinnerformer_jax.evaluation.protocol import build_protocol
from pinnerformer_jax.evaluation.report import rules_sentence
from pinnerformer_jax.evaluation.within_rules import measure_rules
from pinnerformer_jax.retrieval.rules import Rules

T, ITEMS = 1_795_000_000, 40
CONFIG = EvaluationConfig()


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """User 0 touched item 0 and goes on to items 1 and 12, user 1 touched item 3 and goes on to item 4."""

    def event(item, time):
        return (item, 1, 1, T + time, 0.0)

    users = {
        "a": [event(0, -DAY), event(1, 1), event(12, 2)],
        "b": [event(3, -DAY), event(4, 1)],
    }
    path = write_prepared(
        tmp_path_factory.mktemp("data"), users, T, roles=dict.fromkeys(users, EVALUATION), items=ITEMS
    )
    catalog = Catalog.open(path)
    return build_protocol(Timelines.open(path), catalog.reachable, (PositiveRule(),), CONFIG)


def scorer(places):
    """Item 0 first, then 1, ..., for both users."""
    return np.tile(np.arange(ITEMS, 0, -1, dtype=np.float32), (len(places), 1))


def test_blocked_items_leave_the_lists_and_are_missed_as_targets(protocol):
    allowed = np.ones(ITEMS, bool)
    allowed[[1, 20]] = False
    found = measure_rules(scorer, protocol, Rules(allowed), CONFIG)
    assert found.recall == pytest.approx((1 / 2 + 1) / 2)  # items 0 to 9: 1 of {1, 12}, and 4
    assert found.recall_within == pytest.approx((0 + 1) / 2)  # items 0, 2 to 10
    assert (found.items, found.forbidden_items, found.at_most) == (ITEMS, 2, None)
    assert found.forbidden_targets == pytest.approx(1 / 3)
    assert found.shown_forbidden == pytest.approx(0.1)
    assert (found.users_shown_forbidden, found.users_beyond_cap) == (1.0, 0.0)
    assert found.difference_low <= -0.25 <= found.difference_high
    assert "2 of 40 items may not be shown; they are 33.3% of the targets" in rules_sentence(found)


def test_a_cap_lets_later_items_in_however_far_down_they_are(protocol):
    category = np.where(np.arange(ITEMS) < 35, 0, np.arange(ITEMS))  # 0 to 34 are of one category
    category[12] = -1  # has none, and no cap
    found = measure_rules(scorer, protocol, Rules(None, category, at_most=4), CONFIG)
    assert found.recall_within == pytest.approx((1 + 0) / 2)  # items 0 to 3, 12, 35 to 39
    assert found.users_beyond_cap == 1.0
    assert (found.forbidden_items, found.at_most) == (0, 4)
    assert "At most 4 items of a category" in rules_sentence(found)


def test_the_search_widens_until_the_cap_is_filled(tmp_path):
    many = 1000
    users = {"a": [(0, 1, 1, T - DAY, 0.0), (999, 1, 1, T + 1, 0.0)]}
    path = write_prepared(tmp_path, users, T, roles={"a": EVALUATION}, items=many)
    protocol = build_protocol(Timelines.open(path), Catalog.open(path).reachable, (PositiveRule(),), CONFIG)
    category = np.where(np.arange(many) < 991, 7, np.arange(many))
    rules = Rules(None, category, at_most=1)

    def descending(places):
        return np.arange(many, 0, -1, dtype=np.float32)[None, :].repeat(len(places), 0)

    found = measure_rules(descending, protocol, rules, CONFIG)
    assert (found.recall, found.recall_within) == (0.0, 1.0)  # item 0, and 991 to 999


def test_without_any_effect_both_recalls_are_equal(protocol):
    found = measure_rules(scorer, protocol, Rules(np.ones(ITEMS, bool)), CONFIG)
    assert found.recall == found.recall_within
    assert (found.shown_forbidden, found.users_shown_forbidden, found.users_beyond_cap) == (0, 0, 0)
    assert rules_sentence(None) == ""


def test_seen_items_do_not_compete_if_they_are_filtered(protocol):
    filtered = dataclasses.replace(CONFIG, filter_seen=True)
    allowed = np.ones(ITEMS, bool)
    allowed[0] = False
    found = measure_rules(scorer, protocol, Rules(allowed), filtered)
    assert found.users_shown_forbidden == 0.5  # the first user has seen item 0
