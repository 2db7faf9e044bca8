import numpy as np
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import EvaluationConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, Timelines
from pinnerformer_jax.evaluation.protocol import build_protocol
from pinnerformer_jax.evaluation.staleness import newest_before, read_window, schedules, staleness, visible

T = 1_795_000_000
VIEW, LIKE = 1, 2
RULES = (PositiveRule(action="like"),)
ITEMS = 40


def event(item, day, action=LIKE):
    return (item, action, 1, int(T + day * DAY), 0.0)


USERS = {
    "trains": [event(30, -1), event(31, 1)],
    "a": [
        event(0, -3), event(1, -1),
        event(2, 0.5), event(3, 0.5, VIEW), event(4, 0.6), event(5, 1.0), event(2, 2.5), event(9, 20.0),
    ],
    "b": [event(7, -1), event(8, 1.5)],
}  # fmt: skip


@pytest.fixture
def world(tmp_path):
    roles = {user: TRAIN if user == "trains" else EVALUATION for user in USERS}
    path = write_prepared(tmp_path / "p", USERS, T, roles=roles, shards=2, items=ITEMS)
    timelines = Timelines.open(path)
    protocol = build_protocol(timelines, Catalog.open(path).reachable, RULES, EvaluationConfig())
    table = np.full((3, 3), np.inf)
    table[LIKE] = 0
    return timelines, protocol, read_window(timelines, protocol, table)


def test_the_window_by_hand(world):
    _, _, window = world
    assert window.user.tolist() == [0, 0, 0, 0, 0, 1]
    assert window.item.tolist() == [2, 3, 4, 5, 2, 8]
    assert window.target.tolist() == [True, False, True, True, True, True]
    assert ((window.time - T) / DAY).round(1).tolist() == [0.5, 0.5, 0.6, 1.0, 2.5, 1.5]


@pytest.mark.parametrize(
    ("name", "moments", "known"),
    [
        ("once", [0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 1]),
        # The event at exactly one day is a target of the vector of t, not of its own moment's.
        ("daily", [0, 0, 0, 0, 2, 1], [2, 2, 2, 2, 6, 1]),
        # Events of one moment do not see each other.
        ("real time", [0, 0, 0.5, 0.6, 1, 0], [2, 2, 4, 5, 6, 1]),
    ],
)
def test_which_vector_an_event_is_a_target_of_and_what_it_had_seen(world, name, moments, known):
    _, protocol, window = world
    schedule = schedules(window, protocol)[name]
    which = newest_before(window, schedule, protocol)
    assert schedule.user[which].tolist() == window.user.tolist()
    assert ((schedule.time[which] - T) / DAY).round(1).tolist() == moments
    assert visible(window, schedule, protocol)[which].tolist() == known
    assert (np.diff(schedule.user) >= 0).all()


def test_a_day_schedule_covers_the_window(world):
    _, protocol, window = world
    assert len(schedules(window, protocol)["daily"].user) == 2 * 14


class Oracle:
    """Vectors that point at one item: the one that the user's next event is about."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, users, counts):
        vectors = np.zeros((len(users), ITEMS), np.float32)
        lives = [[row[0] for row in sorted(rows, key=lambda row: row[3])] for rows in USERS.values()]
        for row, (user, count) in enumerate(zip(users, counts, strict=True)):
            vectors[row, lives[user][count]] = 1
            self.asked.append(tuple(lives[user][:count]))
        return vectors


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_recall_by_hand(world, batch_size):
    """Only the item the vector points at scores above the ties, which count against the model."""
    timelines, protocol, _ = world
    embed = Oracle()
    config = EvaluationConfig(batch_size=batch_size)
    found = staleness(embed, np.eye(ITEMS, dtype=np.float32), timelines, protocol, RULES, config)
    assert list(found) == ["once", "daily", "real time"]
    totals = {name: outcome.recall.total.tolist() for name, outcome in found.items()}
    # once: "a" points at 2, liked twice. daily: at 2 until day 2, then (six events seen) at 2 again.
    # real time: 2 at t, 4 after 0.5, 5 after 0.6, 2 after 1.0: all.
    assert totals == {"once": [2, 1], "daily": [2, 1], "real time": [4, 1]}
    assert all(outcome.recall.weight.tolist() == [4, 1] for outcome in found.values())
    assert {name: outcome.vectors for name, outcome in found.items()} == {
        "once": 2,
        "daily": 3,
        "real time": 5,
    }
    assert (0, 1, 2, 3) in embed.asked
    assert found["real time"].recall.value() == 1.0
