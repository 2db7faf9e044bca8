"""The verb `evaluate` as a user runs it, on a run of a tiny model."""

import datetime
import json

import jax
import numpy as np
import pytest
import small_run
from prepared import write_prepared

from pinnerformer_jax import __version__, evaluate
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, read_manifest
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import RunRecord, claim, data_digest
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import create

SIZES = Sizes(8, 3, 3)


def write_data(path, seed=0):
    rng = np.random.default_rng(seed)
    users = {
        f"user-{k}": [
            (int(rng.integers(50)), 1, 1, int(small_run.SPLIT + age), 0.0)
            for age in rng.integers(-60 * DAY, 14 * DAY, rng.integers(10, 30))
        ]
        for k in range(40)
    }
    roles = {user: EVALUATION if k % 2 else TRAIN for k, user in enumerate(users)}
    return write_prepared(path, users, small_run.SPLIT, roles=roles, items=50)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, prepared folder) of a run with one checkpoint, of an untrained model."""
    folder = tmp_path_factory.mktemp("run")
    prepared = write_data(folder / "prepared")
    config = small_run.config(prepared)
    claim(folder / "work", RunRecord(config, SIZES, data_digest(read_manifest(prepared))))
    state = jax.device_get(jax.jit(lambda: create(config, SIZES)[1])())
    with Checkpoints(folder / "work") as checkpoints:
        checkpoints.save(replicate(make_mesh(), state._replace(step=np.int32(1))))
    return folder / "work", prepared


@pytest.fixture(autouse=True)
def no_compilation_cache(monkeypatch):
    monkeypatch.setattr(evaluate, "set_up_process", lambda: None)


def test_one_command_evaluates_and_reports(run, capsys):
    workdir, _ = run
    assert evaluate.main(["--workdir", str(workdir), "--evaluation.cutoffs", "10", "20"]) == 0
    printed = capsys.readouterr().out
    assert "PinnerFormer" in printed
    assert "unseen users" in printed
    results = json.loads((workdir / "results.json").read_text())
    methods = {row["method"] for row in results["rows"]}
    assert methods == {
        "pinnerformer", "served", "random", "popularity", "item_knn", "ease", "own_most_frequent",
        "own_then_knn", "last_items_mean", "last_items_served", "pinnersage_mean",
    }  # fmt: skip
    for method in methods:
        own = {(row["protocol"], row["metric"]) for row in results["rows"] if row["method"] == method}
        assert {("paper", "recall@10"), ("paper", "interest_entropy@50"), ("paper", "p90_coverage@10")} <= own
        assert {("full", "recall@20"), ("new_items", "ndcg@10"), ("full", "hit_rate@10")} <= own
    assert results["config"]["evaluation"]["cutoffs"] == [10, 20]
    assert results["protocol"]["users"] == 20
    assert results["scann"]["recall"] == 1.0  # brute force
    assert (results["checkpoint"], results["step"]) == ("best", 1)
    assert results["data"] == data_digest(read_manifest(run[1]))
    assert results["version"] == __version__
    assert datetime.datetime.fromisoformat(results["date"]).utcoffset() == datetime.timedelta(0)
    assert "Checkpoint: step 1 " in printed
    page = (workdir / "report.html").read_text()
    assert "</html>" in page
    assert results["verdict"]
    assert all(sentence in " ".join(printed.split()) for sentence in results["verdict"])
    assert results["verdict"][0].partition(",")[0] in page
    assert results["priors"]["own_weight"] == 0  # there are no validation users
    assert "no priors were fitted" in results["priors"]["fit"]
    assert {each["other"] for each in results["differences"]} == methods - {"served"}


@pytest.mark.slow
def test_rules_of_a_shop_are_measured(run, tmp_path, capsys):
    workdir, prepared = run
    items = Catalog.open(prepared).item_ids
    blocked = tmp_path / "sold-out.txt"
    blocked.write_text("".join(f"{item}\n" for item in items[:10]))
    assert evaluate.main(["--workdir", str(workdir), "--block", str(blocked)]) == 0
    assert "10 of 50 items may not be shown" in " ".join(capsys.readouterr().out.split())
    results = json.loads((workdir / "results.json").read_text())
    served = next(
        row["value"]
        for row in results["rows"]
        if (row["method"], row["protocol"], row["metric"]) == ("served", "full", "recall@10")
    )
    assert results["rules"]["recall"] == pytest.approx(served)
    assert results["rules"]["forbidden_items"] == 10
    assert "10 of 50 items may not be shown" in (workdir / "report.html").read_text()

    blocked.write_text("no such item\n")
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--workdir", str(workdir), "--allow", str(blocked)])
    assert "is one of the items" in capsys.readouterr().err


@pytest.mark.slow
def test_staleness_is_measured_on_demand(run, capsys):
    workdir, _ = run
    assert evaluate.main(["--workdir", str(workdir), "--staleness"]) == 0
    assert "Daily instead of in real time costs" in " ".join(capsys.readouterr().out.split())
    recall = json.loads((workdir / "results.json").read_text())["staleness"]
    assert list(recall) == ["once", "daily", "real time"]
    assert all(0 <= value <= 1 for value in recall.values())
    assert "Daily instead of in real time costs" in (workdir / "report.html").read_text()


def test_other_data_are_refused(run, tmp_path, capsys):
    workdir, _ = run
    other = write_data(tmp_path / "other", seed=1)
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--workdir", str(workdir), "--data.prepared", str(other)])
    assert "not the data that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir"),
        (["--workdir", "nowhere"], "no run here"),
        (["--workdir", "WORK", "--checkpoint", "first"], "invalid choice"),
        (["--workdir", "WORK", "--training.steps", "3"], "--training.steps"),
    ],
)
def test_wrong_usage_is_said(run, arguments, message, capsys):
    arguments = [str(run[0]) if part == "WORK" else part for part in arguments]
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(arguments)
    assert message in capsys.readouterr().err


def test_help_lists_the_settings(capsys):
    with pytest.raises(SystemExit, match="0"):
        evaluate.main(["--help"])
    printed = capsys.readouterr().out
    assert "--workdir" in printed
    assert "--evaluation.index-size" in printed
