"""The past events that carry a recommendation."""

import json

import numpy as np
import pytest
from daily_run import ROWS, TRAINED, day, expected, make_run, of_days, publish, users_of

from pinnerformer_jax import recommend
from pinnerformer_jax.retrieval.priors import Priors, write_priors
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.why import Explainer

LENGTH = 12  # T, so that some users have more events
WEIGHT = 0.4


@pytest.fixture(scope="module", params=[False, True])
def world(request, tmp_path_factory):
    """(workdir, snapshots, whether the score has priors)."""
    folder = tmp_path_factory.mktemp("world")
    workdir, snapshots = make_run(folder, ROWS, max_length=LENGTH), folder / "snapshots"
    if request.param:
        write_priors(workdir, Priors(WEIGHT, 20.0, 0.2, 5.0, 0.6), 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1), dtype="float32")
    return workdir, snapshots, request.param


def rows_of(user):
    rows = [row for row in of_days(ROWS, 0, TRAINED) if row["user"] == user]
    return sorted(rows, key=lambda row: row["time"])


def test_drops_are_those_of_histories_without_the_event(world):
    """Each event is left out of the rows, and the user embedded again from what is left."""
    workdir, snapshots, priors = world
    recommender = Recommender.open(snapshots)
    loaded = recommender.refresh()
    explainer = Explainer.open(workdir, loaded)
    counts = {user: len(rows_of(user)) for user in users_of(snapshots)[0]}
    short = min((user for user in counts if counts[user] > 3), key=counts.get)
    long = max(counts, key=counts.get)
    assert counts[short] < LENGTH < counts[long]
    for user in (short, long):
        rows = rows_of(user) if priors else rows_of(user)[-LENGTH:]  # a state without priors keeps T
        found = recommender.recommend(user, 4)
        reasons = explainer.reasons(recommender, user, found, most=99)
        whole = expected(workdir, rows)[user]
        without = [expected(workdir, [r for r in rows if r is not row])[user] for row in rows]
        for item, of in zip(found.items, reasons, strict=True):
            vector = loaded.vectors[loaded.row[item.id]]
            wanted = np.array([vector @ (whole - other) for other in without])
            if priors:
                end = int(np.datetime64(loaded.manifest.date, "s").astype(int)) + 86400
                weight = np.array([2 ** ((r["time"] - end) / (20 * 86400)) for r in rows])
                same = np.array([r["item"] == item.id for r in rows])
                total = weight[same].sum()
                wanted += WEIGHT * (np.log1p(total) - np.log1p(total - weight * same))
            by_time = {row["time"]: drop for row, drop in zip(rows, wanted, strict=True)}
            for reason in of:
                assert reason.drop == pytest.approx(by_time[int(reason.time.timestamp())], abs=3e-6)
                assert reason.drop > 0
            assert [r.drop for r in of] == sorted([r.drop for r in of], reverse=True)
            missing = sum(drop > 3e-6 for drop in wanted) - sum(r.drop > 3e-6 for r in of)
            assert missing == 0
            row = next(row for row in rows if row["time"] == int(of[0].time.timestamp()))
            assert (of[0].item_id, of[0].action) == (row["item"], row["action"])
            assert of[0].title == f"Item {row['item'][1:]}"


def test_a_cold_user_has_no_reasons_and_another_run_is_refused(world, tmp_path):
    workdir, snapshots, _ = world
    recommender = Recommender.open(snapshots)
    explainer = Explainer.open(workdir, recommender.refresh())
    assert explainer.reasons(recommender, "nobody", recommender.recommend("nobody", 2)) == [[], []]
    other = make_run(tmp_path, ROWS, 1)
    with pytest.raises(ValueError, match=r"run-1: the state is of model version \w+, the run's are \w+"):
        Explainer.open(other, recommender.refresh())


def test_reasons_are_printed(world, capsys):
    workdir, snapshots, _ = world
    user = max(users_of(snapshots)[0])
    arguments = ["--snapshots", str(snapshots), "--user", user, "-k", "2", "--why", str(workdir)]
    assert recommend.main([*arguments, "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    recommender = Recommender.open(snapshots)
    found = recommender.recommend(user, 2)
    wanted = Explainer.open(workdir, recommender.refresh()).reasons(recommender, user, found)
    for item, reasons in zip(items, wanted, strict=True):
        assert len(reasons) <= 3
        assert [why["drop"] for why in item["why"]] == [reason.drop for reason in reasons]
        assert set(item["why"][0]) == {"item_id", "title", "action", "time", "drop"}
    assert recommend.main(arguments) == 0
    output = capsys.readouterr().out
    assert f"{wanted[0][0].drop:.3f}" in output
    with pytest.raises(SystemExit):
        recommend.main([*arguments, "--out", "recs.csv"])
    assert "--out has no reasons" in capsys.readouterr().err
