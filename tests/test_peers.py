"""The comparison with RecTools, whose process is here a small script that needs numpy alone."""

import json
import sys

import jax
import numpy as np
import pytest
import small_run
from prepared import write_prepared

from benchmarks import peers
from pinnerformer_jax import evaluate
from pinnerformer_jax.config import Config, DataConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, VALIDATION, Timelines, read_manifest
from pinnerformer_jax.evaluation.comparison import evaluate_methods
from pinnerformer_jax.evaluation.evaluator import EvaluationData
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import RunRecord, claim, data_digest
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import create

T = 1_795_000_000
LIKES = (PositiveRule(action="like"),)

CHILD = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
settings = json.loads((folder / "settings.json").read_text())
split = np.load(folder / "split.npz", allow_pickle=False)
users, items = settings["users"], settings["items"]
vectors = np.zeros((users, items), np.float32)
vectors[split["history_user"], split["history_item"]] = 1  # any item of the history
vectors += np.linspace(0, .5, items, dtype=np.float32)
for minutes in settings["minutes"]:
    np.savez(folder / f"vectors-{minutes:g}.npz", users=vectors, items=np.eye(items, dtype=np.float32),
             known=np.isin(np.arange(items), split["train_item"]), embedded=np.ones(users, bool),
             cpu_minutes=minutes, wall_minutes=1.0, steps=7, epochs=0.5, loss=np.nan, versions="fake 1")
"""


def event(item, day, action=2):
    return (item, action, 1, int(T + day * DAY), 0.0)


@pytest.fixture
def child(tmp_path):
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return path


@pytest.fixture
def prepared(tmp_path):
    users = {
        "trains": [event(0, -3), event(1, -2, action=1), event(0, -1), event(11, 1)],
        "validates": [event(10, -1)],
        "a": [event(9, -4), event(2, -3), event(2, -1), event(2, 1), event(0, 2)],
        "no target": [event(3, -1)],
        "trains too": [event(k, -k - 1) for k in range(9)],
        "b": [event(10, -2), event(10, 3), event(8, 4), event(4, 15)],
    }
    roles = {"validates": VALIDATION, "a": EVALUATION, "no target": EVALUATION, "b": EVALUATION}
    return write_prepared(tmp_path / "p", users, T, roles=roles, shards=2, items=12)


def data_of(prepared):
    config = Config(data=DataConfig(prepared=str(prepared), positives=LIKES))
    return EvaluationData(config, Timelines.open(prepared), Catalog.open(prepared))


def test_the_export_has_the_training_users_and_the_evaluated_users_up_to_t(prepared, tmp_path):
    peers.export_split(data_of(prepared), tmp_path)
    with np.load(tmp_path / "split.npz", allow_pickle=False) as split:
        found = {name: split[name].tolist() for name in split.files}
    assert found["train_user"] == [0] * 3 + [1] * 9
    assert found["train_item"] == [0, 1, 0, *range(8, -1, -1)]
    assert found["train_time"][:3] == [T - 3 * DAY, T - 2 * DAY, T - DAY]
    assert found["history_user"] == [0, 0, 0, 1]
    assert found["history_item"] == [9, 2, 2, 10]
    assert max(found["train_time"] + found["history_time"]) <= T


def test_scores_are_inner_products_and_an_unknown_item_is_last(prepared, child, tmp_path):
    data = data_of(prepared)
    peers.export_split(data, tmp_path)
    peers.train(sys.executable, child, tmp_path, {"users": 2, "items": 12, "minutes": [0.5]})
    scorer, facts = peers.read_vectors(tmp_path / "vectors-0.5.npz", 2, 12)
    scores = scorer(np.array([1, 0]))
    ramp = np.linspace(0, 0.5, 12)
    assert (scores[:, 9:] == peers.LOWEST).all()  # 9, 10, 11: of no training user up to t
    np.testing.assert_allclose(scores[0, :9], ramp[:9], rtol=1e-6)
    np.testing.assert_allclose(scores[1, 2], ramp[2] + 1, rtol=1e-6)
    assert facts["unknown_items"] == 3
    assert facts["users_without_vector"] == 0

    found = evaluate_methods({"theirs": scorer}, data.protocol, data.topics[0], data.config.evaluation)
    value = {row.protocol: row.value for row in found.rows if row.metric == "recall@10"}
    # Targets: a 2 (first) and 0 (last of nine known items); b 10 (unknown) and 8 (first). Unknown items tie
    # behind the nine known ones, so that 10 is not among ten.
    assert value["paper"] == pytest.approx(3 / 4)
    assert value["full"] == pytest.approx((1 + 1 / 2) / 2)
    assert value["new_items"] == pytest.approx(1.0)


def test_a_process_that_fails_is_quoted(tmp_path):
    child = tmp_path / "child.py"
    child.write_text("import no_such_library")
    with pytest.raises(ValueError, match=r"ended with code 1:[^$]*No module named 'no_such_library'"):
        peers.train(sys.executable, child, tmp_path, {})


def test_vectors_of_other_users_are_refused(prepared, child, tmp_path):
    peers.export_split(data_of(prepared), tmp_path)
    peers.train(sys.executable, child, tmp_path, {"users": 2, "items": 12, "minutes": [1]})
    with pytest.raises(ValueError, match=r"vectors of 2 users and 12 items.*wanted 3 users and 12 items"):
        peers.read_vectors(tmp_path / "vectors-1.npz", 3, 12)


def test_an_earlier_split_needs_no_run(prepared, child, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "CHILD", child)
    config = tmp_path / "config.py"
    config.write_text(
        "from pinnerformer_jax.config import Config, DataConfig, PositiveRule\n"
        'config = Config(data=DataConfig(positives=(PositiveRule(action="like"),)))\n'
    )
    command = ["--prepared", str(prepared), "--config", str(config), "--python", sys.executable]
    peers.main([*command, "--minutes", "2", "1", "--json", str(tmp_path / "peers.json")])
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "peers.json").read_text())
    assert list(result["peers"]) == ["sasrec, 1 min", "sasrec, 2 min"]
    assert result["peers"]["sasrec, 2 min"]["cpu_minutes"] == 2
    assert {row["method"] for row in result["rows"]} == set(result["peers"])
    assert "sasrec, 1 min" in printed
    assert "3 items not seen in training" in printed


def test_a_run_is_compared_on_its_own_evaluation(child, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    users = {
        f"user-{k}": [(int(rng.integers(50)), 1, 1, int(T + age), 0.0) for age in ages]
        for k, ages in enumerate(rng.integers(-60 * DAY, 14 * DAY, (30, 20)))
    }
    roles = {user: EVALUATION if k % 2 else TRAIN for k, user in enumerate(users)}
    prepared = write_prepared(tmp_path / "p", users, T, roles=roles, items=50)
    config, sizes, work = small_run.config(prepared), Sizes(8, 3, 3), tmp_path / "work"
    claim(work, RunRecord(config, sizes, data_digest(read_manifest(prepared))))
    state = jax.device_get(jax.jit(lambda: create(config, sizes)[1])())
    with Checkpoints(work) as checkpoints:
        checkpoints.save(replicate(make_mesh(), state._replace(step=np.int32(1))))

    monkeypatch.setattr(peers, "CHILD", child)
    command = ["--workdir", str(work), "--python", sys.executable, "--minutes", "1"]
    with pytest.raises(SystemExit):
        peers.main([*command])
    assert "run python evaluate.py" in capsys.readouterr().err

    monkeypatch.setattr(evaluate, "set_up_process", lambda: None)
    evaluate.main(["--workdir", str(work), "--evaluation.index-size", "20"])
    peers.main([*command, "--json", str(tmp_path / "peers.json")])
    printed = capsys.readouterr().out
    before = json.loads((work / "results.json").read_text())["rows"]
    after = json.loads((tmp_path / "peers.json").read_text())

    def recall(rows):
        """{(method, protocol): value}"""
        return {(r["method"], r["protocol"]): r["value"] for r in rows if r["metric"] == "recall@10"}

    ours = {key: value for key, value in recall(after["rows"]).items() if key[0] != "sasrec, 1 min"}
    assert ours == pytest.approx(recall(before), abs=1e-6)
    assert ("sasrec, 1 min", "paper") in recall(after["rows"])
    theirs = [each["method"] for each in after["differences"] if each["other"] == "sasrec, 1 min"]
    assert theirs == ["served", "served", "pinnerformer", "pinnerformer"]
    assert "PinnerFormer, served less sasrec, 1 min, full" in printed

    results = json.loads((work / "results.json").read_text())
    (work / "results.json").write_text(json.dumps(results | {"step": 9}))
    with pytest.raises(SystemExit):
        peers.main(command)
    assert "run evaluate again" in capsys.readouterr().err
