"""Training events and window events by hand, and pairs."""

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, VALIDATION, Timelines
from pinnerformer_jax.items.engagement import (
    Engagement,
    co_engaged,
    sessions,
    training_engagement,
    window_engagement,
)
from tests.prepared import write_prepared

T = 1_700_000_000
VIEW, LIKE = 1, 2


def at(item, days, action=VIEW):
    return item, action, 1, T + round(days * DAY), 5.0


USERS = {
    "a": [at(0, -3), at(1, -2, LIKE), at(2, 1)],
    "b": [at(3, -2), at(4, -1), at(5, 2), at(6, 3, LIKE)],
    "c": [at(7, -1, LIKE), at(8, 0), at(9, 4)],
    "d": [at(3, -1)],
}


def test_training_is_before_t_and_the_window_after_it(tmp_path):
    roles = {"b": EVALUATION, "d": VALIDATION}
    timelines = Timelines.open(write_prepared(tmp_path / "p", USERS, T, roles=roles, shards=2))
    rules = (PositiveRule(action="like"),)
    events = training_engagement(timelines, rules)
    assert events.user.tolist() == [0, 0, 2, 2]
    assert events.item.tolist() == [0, 1, 7, 8]
    assert events.positive.tolist() == [False, True, True, False]
    assert (events.time <= T).all()
    window = window_engagement(timelines, rules)
    assert (window.user.tolist(), window.item.tolist()) == ([1, 1], [5, 6])
    assert window.positive.tolist() == [False, True]
    assert (window.time > T).all()


def test_pairs_are_near_different_and_of_one_user():
    hours = np.array([0, 1, 2, 3, 40, 41, 41])
    events = Engagement(
        np.array([0, 0, 0, 0, 0, 0, 1]),
        np.array([10, 11, 11, 12, 13, 14, 15], np.int32),
        hours * 3600,
        np.array([True, True, True, True, True, True, True]),
    )
    pairs = zip(*co_engaged(events, reach=2, days=1), strict=True)
    assert sorted(pairs) == [(10, 11, 0), (10, 11, 0), (11, 12, 0), (11, 12, 0), (13, 14, 0)]
    events = events._replace(positive=np.array([True, False, False, True, True, True, True]))
    pairs = zip(*co_engaged(events, reach=1, days=1), strict=True)
    assert sorted(pairs) == [(10, 12, 0), (13, 14, 0)]


def test_sessions_end_at_a_pause_and_with_the_user():
    hours = np.array([0, 1, 4, 4, 5, 5])
    user = np.array([3, 3, 3, 3, 3, 7])
    events = Engagement(user, np.arange(6, dtype=np.int32), hours * 3600, np.ones(6, bool))
    assert sessions(events, 2).tolist() == [0, 0, 1, 1, 1, 2]
    assert sessions(events, 3).tolist() == [0, 0, 0, 0, 0, 1]
    assert len(sessions(Engagement(*(column[:0] for column in events)), 2)) == 0
