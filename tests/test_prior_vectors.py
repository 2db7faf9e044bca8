"""Vectors that hold the priors: what they hold, how they are weighed, and as files of a state."""

import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_run import FIRST, ITEMS, ROWS, TRAINED, day, make_run, of_days, publish, run_day, users_of
from scipy.sparse import csr_matrix
from test_fit_priors import ITEMS as WORLD_ITEMS
from test_fit_priors import Nearest, T, evaluator, event, habits, walks, write

from pinnerformer_jax import vectors
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, VALIDATION
from pinnerformer_jax.evaluation import prior_vectors as evaluation
from pinnerformer_jax.evaluation.fit_priors import fit_priors
from pinnerformer_jax.evaluation.prior_vectors import by_vectors, counts_at, fit_own_weight
from pinnerformer_jax.retrieval import prior_vectors as module
from pinnerformer_jax.retrieval.prior_vectors import items_with_priors, own_basis, users_with_priors
from pinnerformer_jax.retrieval.priors import Priors, write_priors
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.tombstones import add_tombstones
from pinnerformer_jax.serving.vector_files import write_vectors


def sparse(values):
    return csr_matrix(np.asarray(values, np.float32))


def test_the_basis_is_the_nearest_that_so_many_numbers_can_give():
    counts = np.random.default_rng(0).poisson(0.4, (80, 12)).astype(np.float32)
    basis = own_basis(sparse(counts), 5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-5)
    _, strength, directions = np.linalg.svd(counts, full_matrices=False)
    best = (counts @ directions[:5].T) @ directions[:5]
    np.testing.assert_allclose(counts @ basis @ basis.T, best, atol=1e-3)
    lost = np.linalg.norm(counts - counts @ basis @ basis.T)
    assert lost == pytest.approx(np.sqrt((strength[5:] ** 2).sum()), rel=1e-4)


def test_more_numbers_than_the_counts_have_are_zero():
    counts = np.zeros((30, 6), np.float32)
    counts[:, :3] = np.random.default_rng(1).poisson(1.0, (30, 3))
    basis = own_basis(sparse(counts), 9)
    assert basis.shape == (6, 9)
    np.testing.assert_allclose(counts @ basis @ basis.T, counts, atol=1e-4)
    np.testing.assert_array_equal(own_basis(sparse(np.zeros((4, 6))), 3), np.zeros((6, 3)))
    np.testing.assert_array_equal(own_basis(sparse(np.zeros((0, 6))), 3), np.zeros((6, 3)))


def test_of_many_users_a_sample_gives_the_basis(monkeypatch):
    counts = np.random.default_rng(2).poisson(0.5, (90, 7))
    monkeypatch.setattr(module, "BASIS_USERS", 31)
    np.testing.assert_array_equal(own_basis(sparse(counts), 3), own_basis(sparse(counts[::3]), 3))


def test_what_has_no_weight_takes_no_numbers():
    users, items, own, basis = np.ones((2, 3)), np.ones((4, 3)), sparse(np.eye(2, 4)), np.eye(4, 2)
    for priors, numbers in (
        (Priors(), 3),
        (Priors(vectors_own_weight=0.5), 5),
        (Priors(popularity_weight=0.5), 4),
        (Priors(vectors_own_weight=0.5, popularity_weight=0.5), 6),
    ):
        assert users_with_priors(users, own, basis, priors).shape == (2, numbers)
        assert items_with_priors(items, basis, np.ones(4), priors).shape == (4, numbers)


def habits_with_training(**kwargs):
    """`habits`, and as many training users."""
    users, roles = habits(**kwargs)
    training = {f"t{name}": rows for name, rows in habits(seed=9, **kwargs)[0].items()}
    return users | training, roles


def test_with_numbers_for_all_items_the_vectors_give_the_served_score(tmp_path):
    users, roles = habits_with_training(validation=70)
    model = evaluator(write(tmp_path / "p", users, roles))
    priors = Priors(0.5, 30.0, 0.25, 7.0, vectors_own_weight=0.5, vectors_own_dim=WORLD_ITEMS)
    assert np.linalg.matrix_rank(counts_at(model, priors).basis) == WORLD_ITEMS  # as many kinds of users
    places = np.arange(len(model.data.protocol.users))
    np.testing.assert_allclose(by_vectors(model, priors)(places), model.served(priors)(places), atol=1e-4)
    fewer = dataclasses.replace(priors, vectors_own_dim=8)
    assert np.abs(np.asarray(by_vectors(model, fewer)(places)) - model.served(priors)(places)).max() > 0.05


def test_own_counts_are_weighed_where_people_come_back(tmp_path):
    model = evaluator(write(tmp_path / "p", *habits_with_training()))
    priors = fit_own_weight(model, fit_priors(model).priors, 32)
    assert priors.vectors_own_weight > 0
    assert priors.vectors_own_dim == 32
    assert "own counts in 32 numbers" in priors.vectors_formula
    assert fit_own_weight(model, priors, 0).vectors_own_weight == 0
    there = model.on(model.data.earlier[0])
    with_own, without = (
        by_vectors(there, each) for each in (priors, dataclasses.replace(priors, vectors_own_weight=0.0))
    )
    targets = there.data.protocol.targets

    def found(scorer):
        order = np.argsort(-np.asarray(scorer(np.arange(len(targets.offsets) - 1))), axis=1)[:, :5]
        owner, number = targets.of(np.arange(len(targets.offsets) - 1))
        return np.mean([item in order[user] for user, item in zip(owner, targets.item[number], strict=True)])

    assert found(with_own) > found(without) + 0.3


def test_a_catalogue_may_be_too_large_for_own_counts(tmp_path, monkeypatch, capsys):
    model = evaluator(write(tmp_path / "p", *habits_with_training(validation=5)))
    monkeypatch.setattr(evaluation, "MOST_ITEMS", WORLD_ITEMS - 1)
    assert fit_own_weight(model, Priors(0.5), 8).vectors_own_weight == 0
    assert "no own counts, as 60 items are more than 59" in capsys.readouterr().err


def test_own_counts_are_not_weighed_where_they_mislead(tmp_path):
    """Everybody takes the items in one order and never comes back, so that own items are in the way."""
    users = {f"u{k}": [event(item, 7 * item - 60 - k % 3) for item in range(k % 3, 10)] for k in range(40)}
    model = evaluator(
        write(tmp_path / "p", users, {f"u{k}": VALIDATION for k in range(20)} | {"u39": EVALUATION}),
        Nearest(),
    )
    priors = fit_own_weight(model, Priors(), 8)
    assert (priors.vectors_own_weight, priors.vectors_own_dim) == (0, 0)
    assert not priors.used


def test_what_a_user_had_is_hidden_as_served(tmp_path):
    model = evaluator(write(tmp_path / "p", *walks()), Nearest())
    priors = fit_own_weight(model, fit_priors(model).priors, 8)
    assert priors.hide_seen
    assert priors.vectors_formula.endswith(", of items that the user did not have")
    places = np.arange(len(model.data.protocol.users))
    owner, had = model.data.protocol.history.touched(places)
    scores = np.asarray(by_vectors(model, priors)(places))
    assert np.isneginf(scores[owner, had]).all()
    assert np.isneginf(scores).sum() == len(set(zip(owner.tolist(), had.tolist(), strict=True)))


def test_nothing_after_a_split_and_no_evaluation_user_is_read(tmp_path):
    """Markers: after t everybody does one thing, and the evaluation users always did another; after an
    earlier split training users do a third."""
    users, roles = habits_with_training()
    model = evaluator(write(tmp_path / "before", users, roles))
    served = fit_priors(model).priors
    before = fit_own_weight(model, served, 16)
    for name in users:
        users[name] = [e for e in users[name] if e[3] <= T] + [event(59, number) for number in (1, 2, 3)]
        if roles.get(name) == EVALUATION:
            users[name] = [event(58, -number) for number in range(1, 100, 3)] + users[name][-3:]
    assert fit_own_weight(evaluator(write(tmp_path / "after", users, roles)), served, 16) == before
    split = model.data.earlier[0].protocol.split_time
    trial = Priors(vectors_own_dim=16)
    known = counts_at(model.on(model.data.earlier[0]), trial)
    for name in users:
        if name not in roles:
            users[name] = [e for e in users[name] if e[3] <= split] + [event(57, -d) for d in range(1, 13)]
    later = evaluator(write(tmp_path / "later", users, roles))
    there = counts_at(later.on(later.data.earlier[0]), trial)
    np.testing.assert_array_equal(there.basis, known.basis)
    np.testing.assert_array_equal(there.popularity, known.popularity)
    assert not np.array_equal(counts_at(later, trial).basis, counts_at(model, trial).basis)


PRIORS = Priors(0.4, 20.0, 0.2, 5.0, 0.6, vectors_own_weight=0.7, vectors_own_dim=6)


def expected(snapshots, days):
    """{(user, item): score}, straight from ROWS and the state's vectors."""
    rows, end = of_days(ROWS, 0, days), FIRST + days * DAY
    places, table = users_of(snapshots)
    items = snapshot.read_parquet(next(snapshots.glob("model_version=*/ds=*/run=*")) / "items.parquet")
    names = items["item_id"].to_pylist()
    owners = sorted({row["user"] for row in rows})
    own, popularity = np.zeros((len(owners), len(names))), np.zeros(len(names))
    for row in rows:
        age = (row["time"] - end) / DAY
        own[owners.index(row["user"]), names.index(row["item"])] += 2 ** (age / PRIORS.own_half_life_days)
        popularity[names.index(row["item"])] += 2 ** (age / PRIORS.popularity_half_life_days)
    own = np.log1p(own)
    _, _, directions = np.linalg.svd(own, full_matrices=False)
    near = own @ directions[:6].T @ directions[:6]
    vectors_of = snapshot.vectors_of(table).astype(np.float32)
    return {
        (user, item): float(vectors_of[places[user]] @ row)
        + PRIORS.vectors_own_weight * near[owners.index(user), number]
        + PRIORS.popularity_weight * math.log1p(PRIORS.popularity_share * popularity[number])
        for user in places
        for number, (item, row) in enumerate(zip(names, snapshot.vectors_of(items), strict=True))
    }


def products(folder):
    """{(user, item): inner product}, of the files alone."""
    users, items = (pq.read_table(folder / f"{name}.parquet") for name in ("users", "items"))
    scores = snapshot.vectors_of(users) @ snapshot.vectors_of(items).T
    return {
        (user, item): float(scores[u, i])
        for u, user in enumerate(users["user_id"].to_pylist())
        for i, item in enumerate(items["item_id"].to_pylist())
    }


@pytest.fixture
def published(tmp_path):
    workdir, snapshots = make_run(tmp_path, ROWS), tmp_path / "snapshots"
    write_priors(workdir, PRIORS, 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1))
    return workdir, snapshots


def test_files_give_the_score_by_their_inner_product(published, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pinnerformer_jax.serving.vector_files.USERS_AT_ONCE", 7)
    snapshots, out = published[1], tmp_path / "out"
    assert vectors.main(["--snapshots", str(snapshots), "--out", str(out)]) == 0
    assert products(out) == pytest.approx(expected(snapshots, TRAINED), abs=2e-4)
    about, said = json.loads((out / "vectors.json").read_text()), capsys.readouterr().out
    assert about["numbers"] == {"all": 15, "model": 8, "own_counts": 6, "popularity": 1}
    assert about["users"] == len(users_of(snapshots)[0])
    assert "0.7 x own counts in 6 numbers + 0.2 x log(1 + everybody's count, half-life 5 days)" in said
    assert (
        "15 numbers each: 8 of the model, 6 of own counts, 1 of popularity; search by inner product" in said
    )
    assert pq.read_schema(out / "users.parquet").metadata[b"state"].decode() == about["state"]


def test_deleted_users_are_left_out_and_an_older_folder_is_replaced(published, tmp_path):
    _, snapshots = published
    out, user = tmp_path / "out", next(iter(users_of(snapshots)[0]))
    assert write_vectors(snapshots, out)["users"] == len(users_of(snapshots)[0])
    add_tombstones(snapshots, pa.array([user]))
    assert write_vectors(snapshots, out)["users"] == len(users_of(snapshots)[0]) - 1
    assert user not in pq.read_table(out / "users.parquet")["user_id"].to_pylist()


def test_without_users_the_items_are_written(published, tmp_path):
    workdir, snapshots = published
    everybody = list(users_of(snapshots)[0])
    (tmp_path / "gone.txt").write_text("\n".join(everybody))
    publish(workdir, snapshots, date=day(TRAINED - 1), tombstones=tmp_path / "gone.txt")
    assert not len(users_of(snapshots)[1])
    about = write_vectors(snapshots, tmp_path / "out")
    assert (about["users"], about["items"]) == (0, ITEMS)
    assert pq.read_table(tmp_path / "out" / "users.parquet")["user_id"].to_pylist() == []


def test_another_folder_is_not_touched(published, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(SystemExit) as stopped:
        vectors.main(["--snapshots", str(published[1]), "--out", str(tmp_path / "mine")])
    assert stopped.value.code == 2
    assert "not a folder that vectors wrote" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_state_whose_priors_are_not_in_the_vectors_says_so(tmp_path, capsys):
    workdir, snapshots = make_run(tmp_path, ROWS), tmp_path / "snapshots"
    write_priors(workdir, Priors(0.4, 20.0, hide_seen=True), 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1))
    assert vectors.main(["--snapshots", str(snapshots), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "run evaluate again, then embed" in said
    assert "leave out what the user had" in said
    assert json.loads((tmp_path / "out" / "vectors.json").read_text())["numbers"]["all"] == 8


def test_they_follow_the_state(published, tmp_path):
    workdir, snapshots = published
    write_vectors(snapshots, tmp_path / "out")
    before = products(tmp_path / "out")
    run_day((tmp_path, workdir, snapshots), TRAINED)
    write_vectors(snapshots, tmp_path / "out")
    after = products(tmp_path / "out")
    assert len(after) > len(before)  # new users
    assert after == pytest.approx(expected(snapshots, TRAINED + 1), abs=2e-4)
