import numpy as np
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import EvaluationConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, Timelines
from pinnerformer_jax.evaluation.examples import examples, missed
from pinnerformer_jax.evaluation.protocol import build_protocol

T = 1_795_000_000


def drops(place, rows):
    """User 7's two events: the first carries item 0, both carry item 1, neither carries the rest."""
    lost = np.zeros((len(rows), 2 - place))
    if place == 0:
        lost[rows == 0] = 0.3, -0.1
        lost[rows == 1] = 0.1, 0.2
    return lost


@pytest.fixture
def described(tmp_path):
    def tell(describe=examples, first=15, **config):
        def event(item, time):
            return (item, 1, 1, T + time, 0.0)

        users = {
            "7": [event(0, -2 * DAY), event(1, -DAY), event(1, 1), event(2, 2)],
            "8": [event(3, -DAY), event(4, 1)],
        }
        path = write_prepared(
            tmp_path / f"{first}", users, T, roles=dict.fromkeys(users, EVALUATION), items=15,
            titles=[f"title {k}" for k in range(14)] + [None],
        )  # fmt: skip
        timelines, catalog, settings = Timelines.open(path), Catalog.open(path), EvaluationConfig(**config)
        protocol = build_protocol(timelines, catalog.reachable, (PositiveRule(),), settings)
        scores = np.tile(np.arange(15, 0, -1, dtype=np.float32), (2, 1))  # item 0 first
        scores[:, first:] += 15
        return describe(lambda users: scores[users], drops, protocol, timelines, catalog, settings)

    return tell


def test_an_example_shows_titles(described):
    first, second = described()
    assert (first.user, second.user) == ("7", "8")
    assert [(item.title, item.time[:10]) for item in first.history] == [
        ("title 1", "2026-11-17"),
        ("title 0", "2026-11-16"),
    ]
    assert first.events == 2
    assert [item.title for item in first.retrieved] == [f"title {k}" for k in range(10)]
    assert [(item.hit, item.seen) for item in first.retrieved[:4]] == [
        (False, True),
        (True, True),
        (True, False),
        (False, False),
    ]
    assert [(item.title, item.hit) for item in second.targets] == [("title 4", True)]
    assert [[event.title for event in item.because] for item in first.retrieved[:3]] == [
        ["title 0"],
        ["title 1", "title 0"],
        [],
    ]
    assert first.retrieved[0].because[0].time[:10] == "2026-11-16"
    assert not any(item.because for item in second.retrieved + first.targets)


def test_seen_items_are_not_retrieved_if_they_are_filtered(described):
    first, _ = described(filter_seen=True)
    assert first.retrieved[0].title == "title 2"
    assert [(item.title, item.hit) for item in first.targets] == [
        ("title 1", False),
        ("title 2", True),
    ]


def test_users_without_a_hit_are_shown_the_one_with_the_most_targets_first(described):
    assert described(missed) == []
    found = described(missed, first=5)  # items 5 to 14 before all others
    assert [user.user for user in found] == ["7", "8"]
    assert not any(item.hit for user in found for item in user.targets)
    assert [user.user for user in described(missed, first=3)] == ["7"]  # item 4 is found for user 8
