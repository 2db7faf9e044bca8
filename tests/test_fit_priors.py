"""Priors: the served score, and how it is fitted on validation users at earlier splits."""

import dataclasses
import json

import numpy as np
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import Config, DataConfig, ModelConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, VALIDATION, Timelines
from pinnerformer_jax.evaluation import validation_gain as module
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.evaluation.fit_priors import COARSE, FINE, fit_priors
from pinnerformer_jax.evaluation.validation_gain import validation_gain
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.retrieval.priors import FILE, Priors, read_priors, write_priors

T = 1_795_000_000
ITEMS = 60


def event(item, day):
    return (int(item), 2, 1, int(T + day * DAY), 0.0)


class Noise(Embedder):
    """Stands for a model that has learned nothing: fixed random vectors."""

    def __init__(self, dim=8):
        self.mesh = None
        items = np.random.default_rng(0).normal(size=(ITEMS, dim))
        self.vectors = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float32)

    def items(self, first=0):
        return self.vectors[first:]

    def users(self, history, length):
        newest = np.asarray(history.item)[np.arange(len(length)), np.asarray(length) - 1]
        return self.vectors[(newest * 7 + 3) % ITEMS]


def write(path, users, roles):
    return write_prepared(path, users, T, roles=roles, items=ITEMS)


def evaluator(path, embedder=None):
    config = Config(data=DataConfig(prepared=str(path), positives=(PositiveRule(action="like"),)))
    data = EvaluationData(config, Timelines.open(path), Catalog.open(path))
    return Evaluator(data, embedder or Noise(), 16)


def habits(seed=0, validation=30, days=120):
    """Users who come back to five items of their own each week."""
    rng = np.random.default_rng(seed)
    users, roles = {}, {}
    for k in range(validation + 10):
        own = rng.choice(ITEMS, 5, replace=False)
        name = f"u{k}"
        users[name] = [event(rng.choice(own), -day) for day in range(-13, days, 3)]
        roles[name] = VALIDATION if k < validation else EVALUATION
    return users, roles


def test_own_items_are_weighed_where_people_come_back(tmp_path):
    fit = fit_priors(evaluator(write(tmp_path / "p", *habits())))
    assert fit.priors.own_weight > 0
    assert not fit.priors.hide_seen
    assert fit.gain[1] > fit.gain[0] + 0.3
    assert (fit.users, fit.splits) == (30, 6)
    assert "30 validation users at 6 earlier splits" in fit.sentence


class Nearest(Noise):
    """A user's vector is that of the newest item, so that what the user had is nearest to it."""

    def users(self, history, length):
        return self.vectors[np.asarray(history.item)[np.arange(len(length)), np.asarray(length) - 1]]


def walks(steps=14):
    """Users who each week take the item nearest to the newest that they did not have."""
    vectors, users = Nearest().vectors, {}
    for k in range(40):
        taken = [k]
        for _ in range(steps - 1):
            order = np.argsort(-vectors @ vectors[taken[-1]])
            taken.append(int(order[~np.isin(order, taken)][0]))
        users[f"u{k}"] = [event(item, 7 * (number - steps) + 10) for number, item in enumerate(taken)]
    return users, {name: VALIDATION if k < 30 else EVALUATION for k, name in enumerate(users)}


def test_what_a_user_had_is_hidden_where_nobody_comes_back(tmp_path):
    model = evaluator(write(tmp_path / "p", *walks()), Nearest())
    fit = fit_priors(model)
    assert (fit.priors.hide_seen, fit.priors.own_weight) == (True, 0)
    assert fit.gain[1] > fit.gain[0] + 0.1
    assert fit.priors.formula.endswith(", of items that the user did not have")
    places, history = np.array([1, 0]), model.data.protocol.history
    scores = model.served(Priors(hide_seen=True))(places)
    for place, row, inner in zip(places, scores, np.asarray(model.scorer(places)), strict=True):
        had = np.isin(np.arange(ITEMS), history.item[history.offsets[place] : history.offsets[place + 1]])
        np.testing.assert_array_equal(row, np.where(had, -np.inf, inner))


def test_little_is_weighed_where_nothing_helps(tmp_path):
    rng = np.random.default_rng(1)
    users = {f"u{k}": [event(rng.integers(ITEMS), -day) for day in range(-13, 60, 5)] for k in range(40)}
    roles = {name: VALIDATION if k < 30 else EVALUATION for k, name in enumerate(users)}
    fit = fit_priors(evaluator(write(tmp_path / "p", users, roles)))
    assert max(fit.priors.own_weight, fit.priors.popularity_weight) <= 0.05
    assert fit.gain[1] < fit.gain[0] + 0.01


def test_nothing_is_weighed_where_the_vectors_know_better(tmp_path):
    """Once a fortnight everybody does what `Noise` says, so own and popular items mislead."""
    rng = np.random.default_rng(2)
    users, roles = {}, {}
    for k in range(40):
        item, events = int(rng.integers(ITEMS)), []
        for day in range(-120, 14, 14):
            events.append(event(item, day + 7))
            item = (item * 7 + 3) % ITEMS
        users[f"u{k}"], roles[f"u{k}"] = events, VALIDATION if k < 30 else EVALUATION
    fit = fit_priors(evaluator(write(tmp_path / "p", users, roles)))
    assert fit.priors.none
    assert fit.gain == pytest.approx((1.0, 1.0))


def test_nothing_after_t_and_no_evaluation_user_is_read(tmp_path):
    """A marker: after t everybody does one thing, and the evaluation users always did another."""
    users, roles = habits()
    before = fit_priors(evaluator(write(tmp_path / "before", users, roles)))
    for name in users:
        users[name] = [e for e in users[name] if e[3] <= T] + [event(59, day) for day in (1, 2, 3)]
        if roles[name] == EVALUATION:
            users[name] = [event(58, -day) for day in range(1, 100, 3)] + users[name][-3:]
    assert fit_priors(evaluator(write(tmp_path / "after", users, roles))) == before


def test_without_validation_users_there_are_no_priors(tmp_path):
    users, roles = habits()
    fit = fit_priors(evaluator(write(tmp_path / "p", users, dict.fromkeys(roles, EVALUATION))))
    assert fit.priors.none
    assert "no priors were fitted" in fit.sentence


def test_served_is_the_formula(tmp_path):
    users, roles = habits(validation=5)
    users["t"] = [event(3, -2), event(3, -1), event(4, -30)]
    model = evaluator(write(tmp_path / "p", users, {**roles, "t": 0}))
    priors = Priors(0.5, 30.0, 0.25, 7.0)
    protocol = model.data.protocol
    places = np.array([0, 2])
    scores = model.served(priors)(places)
    popularity = np.zeros(ITEMS)
    popularity[3], popularity[4] = 2 ** (-2 / 7) + 2 ** (-1 / 7), 2 ** (-30 / 7)
    for place, row in zip(places, scores, strict=True):
        _, event_numbers = protocol.history.of(np.array([place]))
        own = np.zeros(ITEMS)
        for number in event_numbers:
            own[protocol.history.item[number]] += 2 ** ((protocol.history.time[number] - T) / (30 * DAY))
        wanted = model.item_vectors @ model.user_vectors[place]
        wanted = wanted + 0.5 * np.log1p(own) + 0.25 * np.log1p(popularity)
        np.testing.assert_allclose(row, wanted, atol=1e-5)
    np.testing.assert_array_equal(model.served(Priors())(places), model.scorer(places))


def test_an_earlier_split_is_what_ingest_would_have_set(tmp_path):
    users, roles = habits(validation=3)
    timelines = Timelines.open(write(tmp_path / "p", users, roles))
    split = T - 20 * DAY
    earlier = timelines.at_earlier_split(split, VALIDATION)
    assert (earlier.manifest.split_time, earlier.manifest.evaluation_end) == (split, split + 14 * DAY)
    assert earlier.with_role(EVALUATION).tolist() == timelines.with_role(VALIDATION).tolist() == [0, 1, 2]
    for shard in earlier.shards:
        for user in range(shard.users):
            own = shard.time[shard.offsets[user] : shard.offsets[user + 1]]
            assert shard.cut[user] == (own <= split).sum()


def test_priors_are_kept_in_the_run(tmp_path):
    write_priors(tmp_path, Priors(0.5, 30.0, 0.25, 7.0), 200, "fitted somehow")
    written = json.loads((tmp_path / FILE).read_text())
    assert written.pop("sha256")
    assert written == {
        "step": 200, "own_weight": 0.5, "own_half_life_days": 30.0, "popularity_weight": 0.25,
        "popularity_half_life_days": 7.0, "popularity_share": 1.0, "hide_seen": False,
        "vectors_own_weight": 0.0, "vectors_own_dim": 0, "note": "fitted somehow",
    }  # fmt: skip
    write_priors(tmp_path, hiding := Priors(hide_seen=True), 200, "")
    assert read_priors(tmp_path, 200) == (hiding, hiding.formula)


def served_gain(model, priors):
    """Discounted gain of what is served to the validation users, one by one: of all targets, of new ones."""
    full, new = [], []
    for data in model.data.earlier:
        scores = np.asarray(model.on(data).served(priors)(np.arange(len(data.protocol.users))))
        for place, row in enumerate(np.where(data.protocol.reachable, scores, -np.inf)):
            _, number = data.protocol.targets.of(np.array([place]))
            _, events = data.protocol.history.of(np.array([place]))
            wanted, had = data.protocol.targets.item[number], data.protocol.history.item[events]
            for found, kept in ((full, wanted), (new, np.setdiff1d(wanted, had))):
                rivals = row if found is full else np.delete(row, had)
                above = (rivals[None] > row[kept][:, None]).sum(axis=1)
                if len(kept):
                    found.append(
                        np.where(np.isfinite(row[kept]) & (above < 50), 1 / np.log2(above + 2), 0).mean()
                    )
    return (np.mean(full) + np.mean(new)) / 2


def test_the_gain_that_chooses_checkpoints_is_of_what_is_served_to_validation_users(tmp_path, capsys):
    model = evaluator(write(tmp_path / "p", *habits(validation=30, days=60)))
    config = dataclasses.replace(
        model.data.config,
        model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=8, item_hidden=16),
    )
    measure = validation_gain(config)
    assert measure is not None
    assert measure.users == 30 * len(model.data.earlier)
    graphdef, params = PinnerFormer(config, Sizes(8, 3, 3)).split()
    trained = Evaluator(model.data, Embedder(graphdef, params, model.data.catalog.features), 8)
    fit = fit_priors(trained, COARSE)
    assert fit.priors.own_weight > 0  # people come back
    for _ in range(2):  # what is counted once serves all checkpoints
        assert measure(graphdef, params)[0] == pytest.approx(served_gain(trained, fit.priors))
    assert measure(graphdef, params)[0] > served_gain(trained, Priors()) + 0.05
    assert measure(graphdef, params)[0] <= fit_priors(trained).served_gain + 1e-9
    few = write(tmp_path / "few", *habits(validation=5))
    assert validation_gain(evaluator(few).data.config) is None
    said = (
        "the discounted gain needs 100 users at earlier splits, each counted once a split, and there are 30"
    )
    assert said in capsys.readouterr().out


def test_the_gain_that_chooses_checkpoints_hides_what_users_had_where_nobody_comes_back(
    tmp_path, monkeypatch
):
    model = evaluator(write(tmp_path / "p", *walks(30)), Nearest())
    monkeypatch.setattr(module, "Embedder", lambda *_: Nearest())
    measure = validation_gain(model.data.config)
    graphdef, params = PinnerFormer(model.data.config, Sizes(8, 3, 3)).split()  # `Nearest` stands in for it
    hiding = fit_priors(model, COARSE).priors
    assert hiding.hide_seen
    assert measure(graphdef, params)[0] == pytest.approx(served_gain(model, hiding))
    assert measure(graphdef, params)[0] > served_gain(model, dataclasses.replace(hiding, hide_seen=False))


def test_the_coarse_grid_has_a_half_life_of_popularity_for_every_window(tmp_path, monkeypatch):
    data = evaluator(write(tmp_path / "p", *habits())).data
    assert COARSE.popularity(data) == [3.0]
    monkeypatch.setattr(EvaluationData, "window_days", 400.0)
    assert COARSE.popularity(data) == FINE.popularity(data) == [56.0]


def test_items_that_do_not_exist_yet_do_not_compete_at_an_earlier_split(tmp_path):
    users, roles = habits(validation=30)
    for name, events in users.items():
        users[name] = [e for e in events if e[0] < 58]
    users["t"] = [event(59, -20), event(58, 2)]  # 59 comes in the window of the second split, 58 after t
    data = evaluator(write(tmp_path / "p", users, {**roles, "t": 0})).data
    competes = [[bool(each.protocol.reachable[item]) for item in (58, 59)] for each in data.earlier]
    assert competes == [[False, True], [False, True], *[[False, False]] * 4]
    assert data.protocol.reachable[[58, 59]].all()
