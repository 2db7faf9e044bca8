import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from pinnerformer_jax.data.contracts import DAY, NO_TIME, Batch, Events
from pinnerformer_jax.objective.targets import (
    Targets,
    _search,
    all_action,
    dense_all_action,
    next_action,
    sasrec,
    user_keys,
)

HORIZON = 5 * DAY
ALL_POSITIVE = jnp.zeros((2, 1))
KEYS = jax.random.split(jax.random.key(0), 1)


def line(*rows: tuple[int, float, int], width: int) -> Events:
    """One user: (item, day, action), padded to `width`."""
    blank = [(0, NO_TIME / DAY, 0)] * (width - len(rows))
    item, day, action = zip(*rows, *blank, strict=True)
    return Events(
        jnp.asarray([item], jnp.int32),
        jnp.asarray([action], jnp.uint8),
        jnp.zeros((1, width), jnp.uint8),
        jnp.asarray(np.round(np.array([day]) * DAY), jnp.int32),
        jnp.zeros((1, width)),
    )


def draw(batch: Batch, table, seed: int, **kwargs) -> Targets:
    keys = user_keys(jax.random.key(seed), jnp.arange(batch.length.shape[0]))
    return dense_all_action(keys, batch, table, **{"horizon": HORIZON, "positions": 4} | kwargs)


def pairs_over_seeds(batch: Batch, table, seeds: int, **kwargs) -> dict[tuple[int, int], int]:
    """How often each (position, item) was drawn."""
    drawn = jax.jit(jax.vmap(lambda seed: draw(batch, table, seed, **kwargs)))(jnp.arange(seeds))
    valid = np.asarray(drawn.valid)
    pairs = np.stack([np.asarray(drawn.position)[valid], np.asarray(drawn.item)[valid]], axis=1)
    return dict(
        zip(
            map(tuple, np.unique(pairs, axis=0)), np.unique(pairs, axis=0, return_counts=True)[1], strict=True
        )
    )


def hand_written() -> Batch:
    # Positions 0 and 1 share a timestamp (one basket); item 14 is not positive; 21 is past 4's horizon.
    history = line((10, 0, 1), (11, 0, 1), (12, 2, 1), (13, 5, 1), (14, 6, 0), width=8)
    future = line((20, 8, 1), (21, 11.5, 1), width=3)
    return Batch(history, jnp.asarray([5]), future, jnp.asarray([2]), jnp.asarray([0]))


def weighed_pairs(targets: Targets) -> dict[tuple[int, int], float]:
    """(position, item) -> weight, of one user whose pairs are distinct."""
    position, item, weight = (np.asarray(v)[np.asarray(targets.valid)] for v in (
        targets.position, targets.item, targets.weight
    ))  # fmt: skip
    found = dict(zip(zip(position.tolist(), item.tolist(), strict=True), weight.tolist(), strict=True))
    assert len(found) == targets.valid.sum()
    assert not np.asarray(targets.weight)[~np.asarray(targets.valid)].any()
    return found


ACTION_1 = jnp.asarray([[jnp.inf], [0.0]])  # action 1 is positive, action 0 never


@pytest.mark.slow
def test_next_action_is_the_newest_position_on_its_next_positive():
    assert weighed_pairs(next_action(KEYS, hand_written(), ACTION_1, horizon=HORIZON)) == {(4, 20): 1.0}
    assert weighed_pairs(next_action(KEYS, hand_written(), ACTION_1, horizon=DAY)) == {}
    only_21 = jnp.asarray([[jnp.inf], [1.0]])
    batch = hand_written()
    batch = batch._replace(future=batch.future._replace(duration=jnp.asarray([[0.0, 2.0, 0.0]])))
    assert weighed_pairs(next_action(KEYS, batch, only_21, horizon=6 * DAY)) == {(4, 21): 1.0}


@pytest.mark.parametrize(("half", "newest"), [(False, 1.0), (True, 4.0)])
def test_sasrec_is_every_position_on_its_next_positive(half, newest):
    got = weighed_pairs(sasrec(KEYS, hand_written(), ACTION_1, horizon=HORIZON, newest_weighs_half=half))
    # 0 and 1 share a basket: both predict 12. 3 passes over 14, no positive, and finds 20 after the window.
    assert got == {(0, 12): 1.0, (1, 12): 1.0, (2, 13): 1.0, (3, 20): 1.0, (4, 20): newest}


def test_sasrec_without_a_positive_after_the_newest_position_weighs_the_others_alike():
    batch = hand_written()._replace(future_count=jnp.asarray([0]))
    got = weighed_pairs(sasrec(KEYS, batch, ACTION_1, horizon=HORIZON, newest_weighs_half=True))
    assert got == {(0, 12): 1.0, (1, 12): 1.0, (2, 13): 1.0}
    alone = batch._replace(length=jnp.asarray([1]), future_count=jnp.asarray([1]))
    got = weighed_pairs(sasrec(KEYS, alone, ACTION_1, horizon=8 * DAY, newest_weighs_half=True))
    assert got == {(0, 20): 1.0}


def test_all_action_is_the_newest_position_on_all_its_positives():
    keys = user_keys(jax.random.key(0), jnp.arange(1))

    def pairs(positives: int, horizon: int = 6 * DAY, keys=keys):
        return weighed_pairs(all_action(keys, hand_written(), ACTION_1, horizon=horizon, positives=positives))

    assert pairs(32) == {(4, 20): 1.0, (4, 21): 1.0}
    assert pairs(32, HORIZON) == {(4, 20): 1.0}
    drawn = [tuple(pairs(1, keys=user_keys(jax.random.key(k), jnp.arange(1)))) for k in range(40)]
    assert set(drawn) == {((4, 20),), ((4, 21),)}, "of more than P, a random P"


def test_the_basket_of_the_newest_position_is_no_target():
    batch = hand_written()
    batch = batch._replace(future=line((20, 6, 1), (21, 7, 1), width=3))  # 20 shares the day of position 4
    keys = user_keys(jax.random.key(0), jnp.arange(1))
    for targets in (
        next_action(KEYS, batch, ACTION_1, horizon=HORIZON),
        all_action(keys, batch, ACTION_1, horizon=HORIZON, positives=8),
    ):
        assert set(weighed_pairs(targets)) == {(4, 21)}


def test_a_row_of_padding_has_no_pair_under_any_objective():
    batch, keys = (
        hand_written()._replace(length=jnp.asarray([0])),
        user_keys(jax.random.key(0), jnp.arange(1)),
    )
    for targets in (
        next_action(KEYS, batch, ALL_POSITIVE, horizon=HORIZON),
        all_action(keys, batch, ALL_POSITIVE, horizon=HORIZON, positives=8),
        sasrec(KEYS, batch, ALL_POSITIVE, horizon=HORIZON, newest_weighs_half=True),
    ):
        assert not targets.valid.any()
        assert not targets.weight.any()


def test_pairs_of_a_hand_written_timeline():
    table = ACTION_1
    counts = pairs_over_seeds(hand_written(), table, 600, positions=5)
    assert set(counts) == {
        *((0, item) for item in (12, 13)),  # day 5 is still inside (0, 5]
        *((1, item) for item in (12, 13)),  # and the basket-mate of position 0 is no target
        (2, 13),
        *((3, item) for item in (20,)),
        (4, 20),
    }  # fmt: skip
    assert counts[2, 13] == counts[4, 20] == 600  # every eligible position is drawn when there is room
    assert abs(counts[0, 12] - 300) < 75  # each positive of a position as likely as the others


def test_the_newest_eligible_position_always_is_drawn_and_the_others_evenly():
    counts = pairs_over_seeds(hand_written(), jnp.asarray([[jnp.inf], [0.0]]), 800, positions=2)
    by_position = {p: sum(n for (q, _), n in counts.items() if q == p) for p in range(5)}
    assert by_position[4] == 800
    assert sum(by_position.values()) == 1600
    assert all(abs(by_position[p] - 200) < 60 for p in range(4))


def test_a_user_without_positives_has_no_pair():
    batch = hand_written()
    targets = draw(batch, jnp.full((2, 1), jnp.inf), 0)
    assert not targets.valid.any()
    nobody = draw(batch._replace(length=jnp.asarray([0])), ALL_POSITIVE, 0)
    assert not nobody.valid.any()


def test_shipped_share_of_the_future_is_weighed_by_what_it_stands_for():
    # One positive in the history, four shipped of twelve after it: 12 / 13 of the draws are from the future.
    history = line((1, 0, 1), (2, 1, 1), width=4)
    future = line(*((30 + i, 2, 1) for i in range(4)), width=4)
    batch = Batch(history, jnp.asarray([2]), future, jnp.asarray([12]), jnp.asarray([0]))
    counts = pairs_over_seeds(batch, ALL_POSITIVE, 2600)
    assert abs(counts[0, 2] - 200) < 60
    assert all(abs(counts[0, 30 + i] - 600) < 110 for i in range(4))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_positives_lie_inside_the_horizon_and_meet_the_rule(seed):
    batch, table = small.batch(seed), small.tables().positive_table
    history, future = (jax.tree.map(np.asarray, part) for part in (batch.history, batch.future))
    targets = jax.tree.map(np.asarray, draw(batch, table, seed, positions=8))
    assert targets.valid.sum() > 20
    for user, slot in zip(*np.nonzero(targets.valid), strict=True):
        position = targets.position[user, slot]
        assert position < batch.length[user]
        start = history.time[user, position]
        candidates = [
            part.item[user, i]
            for part, count in ((history, batch.length[user]), (future, batch.future_count[user]))
            for i in range(int(count))
            if start < part.time[user, i] <= start + HORIZON
            and part.duration[user, i] >= table[part.action[user, i], part.surface[user, i]]
        ]
        assert targets.item[user, slot] in candidates
    positions = [row[valid] for row, valid in zip(targets.position, targets.valid, strict=True)]
    assert all(len(set(row)) == len(row) for row in positions), "positions are drawn without replacement"


def test_ids_above_two_to_the_24_survive():
    batch = hand_written()
    large = 2**30 + 1
    batch = batch._replace(history=batch.history._replace(item=batch.history.item + large))
    drawn = draw(batch, jnp.asarray([[jnp.inf], [0.0]]), 0, positions=5)
    got = dict(zip(drawn.position[0].tolist(), drawn.item[0].tolist(), strict=True))
    assert got[2] == 13 + large


@pytest.mark.slow
def test_draws_do_not_depend_on_who_shares_the_device():
    batch, table = small.batch(), small.tables().positive_table
    whole = draw(batch, table, 0)
    half = jax.tree.map(lambda v: v[8:], batch)
    keys = user_keys(jax.random.key(0), 8 + jnp.arange(8))
    part = dense_all_action(keys, half, table, horizon=HORIZON, positions=4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[8:], b), whole, part)


def test_a_horizon_as_long_as_int32_sees_all_there_is():
    history, future = line((1, 10_500, 1), (2, 10_501, 1), width=3), line((3, 10_502, 1), width=2)
    batch = Batch(history, jnp.asarray([2]), future, jnp.asarray([1]), jnp.asarray([0]))
    found = pairs_over_seeds(batch, ALL_POSITIVE, 40, horizon=2**31 - 1)
    assert found.keys() == {(0, 2), (0, 3), (1, 3)}


def test_an_accelerators_search_finds_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    ascending = jnp.asarray(np.sort(rng.integers(0, 9, (3, 20)), axis=1), jnp.int32)
    wanted = jnp.asarray(rng.integers(-1, 11, (3, 8)), jnp.int32)
    for side in ("left", "right"):
        halving = _search(ascending, wanted, side=side)
        with monkeypatch.context() as patched:
            patched.setattr(jax, "default_backend", lambda: "gpu")
            np.testing.assert_array_equal(_search(ascending, wanted, side=side), halving)
