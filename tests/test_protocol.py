import dataclasses

import numpy as np
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import EvaluationConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, VALIDATION, Timelines
from pinnerformer_jax.evaluation.protocol import build_protocol, with_history

T = 1_795_000_000
VIEW, LIKE, HOME, SEARCH = 1, 2, 1, 2
RULES = (PositiveRule(action="like", surface="home"), PositiveRule(action="view", min_duration=10.0))


def event(item, day, action=LIKE, surface=HOME, duration=0.0):
    return (item, action, surface, int(T + day * DAY), duration)


@pytest.fixture
def prepared(tmp_path):
    users = {
        "trains": [event(0, -1), event(1, 1)],
        "a": [
            event(0, -3), event(5, -2, VIEW), event(0, -1),
            event(0, 1), event(1, 2), event(1, 3), event(7, 4),  # 1 twice; 7 has no vector
            event(2, 5, surface=SEARCH), event(3, 6, VIEW, duration=9.0), event(4, 6, VIEW, SEARCH, 10.0),
            event(6, 14.5),
        ],
        "no history": [event(1, 1)],
        "validates": [event(0, -1), event(1, 1)],
        "no positive": [event(0, -1), event(1, 1, VIEW)],
        "out of reach": [event(0, -1), event(7, 1)],
        "at the edges": [event(3, 0), event(2, 14)],
    }  # fmt: skip
    roles = {"trains": TRAIN, "validates": VALIDATION}
    roles = {user: roles.get(user, EVALUATION) for user in users}
    features = np.eye(8)
    features[7] = 0
    return write_prepared(tmp_path / "p", users, T, roles=roles, shards=3, features=features)


def read(prepared, **config):
    timelines, catalog = Timelines.open(prepared), Catalog.open(prepared)
    return timelines, build_protocol(timelines, catalog.reachable, RULES, EvaluationConfig(**config))


def test_who_is_evaluated_on_what(prepared):
    timelines, protocol = read(prepared)
    assert timelines.user_ids(protocol.users) == ["a", "at the edges"]
    targets = protocol.targets
    assert targets.offsets.tolist() == [0, 3, 4]
    assert targets.item.tolist() == [0, 1, 4, 2]
    assert targets.new.tolist() == [False, True, True, True]
    assert protocol.actions == ["", "view", "like"]
    view, like = [False, True, False], [False, False, True]
    assert targets.by_action.tolist() == [like, like, view, like]


def test_an_item_may_be_a_target_by_several_actions(tmp_path):
    users = {"a": [event(0, -1), event(1, 1, VIEW, duration=10.0), event(1, 2), event(2, 3)]}
    prepared = write_prepared(tmp_path / "p", users, T, roles={"a": EVALUATION})
    _, protocol = read(prepared)
    assert protocol.targets.item.tolist() == [1, 2]
    assert protocol.targets.by_action.tolist() == [[False, True, True], [False, False, True]]


def test_history_is_everything_up_to_t(prepared):
    _, protocol = read(prepared)
    history = protocol.history
    assert history.length.tolist() == [3, 1]
    assert history.item.tolist() == [0, 5, 0, 3]
    assert history.positive.tolist() == [True, False, True, True]
    assert history.time[-1] == T
    owner, number = history.of(np.array([1, 0]))
    assert owner.tolist() == [0, 1, 1, 1]
    assert number.tolist() == [3, 0, 1, 2]


def test_those_with_a_history_are_chosen_by_nothing_they_did_later(prepared):
    timelines, protocol = read(prepared)
    table = positive_table(RULES, timelines.manifest.actions, timelines.manifest.surfaces)
    everyone = with_history(timelines, protocol, table)
    assert timelines.user_ids(everyone.users) == ["a", "no positive", "out of reach", "at the edges"]
    assert everyone.history.length.tolist() == [3, 1, 1, 1]
    assert everyone.targets.of(np.arange(4))[1].tolist() == []


def test_what_is_left_out_is_counted(prepared):
    _, protocol = read(prepared)
    facts = dataclasses.asdict(protocol.summary)
    assert facts["unreachable_pairs"] == 2  # of "a" and of "out of reach"
    assert facts["users_without_history"] == 1
    assert facts["users_without_target"] == 2
    assert (facts["users"], facts["eligible_users"], facts["pairs"], facts["new_pairs"]) == (2, 2, 4, 3)
    assert (facts["items"], facts["reachable_items"], facts["index_size"]) == (8, 7, 7)
    assert (facts["t"], facts["window_days"]) == ("2026-11-18T11:06:40Z", 14.0)


def test_index_is_a_random_sample_of_reachable_items(prepared):
    draws = {seed: read(prepared, index_size=3, seed=seed)[1].index for seed in range(8)}
    assert all(index.sum() == 3 and not index[7] for index in draws.values())
    assert len({tuple(index) for index in draws.values()}) > 1
    np.testing.assert_array_equal(draws[1], read(prepared, index_size=3, seed=1)[1].index)


def test_a_sample_of_users_keeps_their_targets_and_the_index(prepared):
    _, everyone = read(prepared, index_size=3)
    chosen = set()
    for seed in range(8):
        _, protocol = read(prepared, max_users=1, seed=seed)
        assert len(protocol.users) == 1
        assert protocol.eligible == 2
        full = {0: [0, 1, 4], 1: [2]}[int(np.flatnonzero(everyone.users == protocol.users[0])[0])]
        assert protocol.targets.item.tolist() == full
        chosen.add(int(protocol.users[0]))
    assert len(chosen) == 2
    np.testing.assert_array_equal(everyone.index, read(prepared, index_size=3, max_users=1)[1].index)


def test_nobody_to_evaluate_is_an_error_with_a_cure(tmp_path):
    prepared = write_prepared(tmp_path / "p", {"a": [event(0, -1), event(1, 1)]}, T)
    with pytest.raises(ValueError, match=r"of 0 evaluation users none .* raise data\.evaluation_share"):
        read(prepared)
