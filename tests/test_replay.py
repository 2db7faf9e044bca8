"""Days replayed: python -m pinnerformer_jax.replay, over pinnerformer_jax/studies/replay.py."""

import json

import numpy as np
import pytest
from daily_run import ROWS, TRAINED, day, make_run, of_days
from logs import write_parquet

from pinnerformer_jax import replay as verb
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.studies import replay
from pinnerformer_jax.studies.replay import Span


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(workdir, whole log)"""
    folder = tmp_path_factory.mktemp("world")
    return make_run(folder, ROWS), write_parquet(folder / "whole.parquet", ROWS)


@pytest.mark.slow
def test_days_are_compared_and_drawn(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verb, "set_up_process", lambda: None)
    workdir, log = world
    arguments = ["--workdir", str(workdir), "--events", log, "--first", day(TRAINED - 1), "--days", "3"]
    out = tmp_path / "out"
    assert verb.main([*arguments, "--horizon", "1", "--out", str(out)]) == 0
    lines = json.loads((out / "replay.json").read_text())
    assert (out / "replay.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count(" users embedded, ") == 3
    first = snapshot.SnapshotVectors.of(users_of(out / "warm"))
    for number, line in enumerate(lines, TRAINED):
        today = of_days(ROWS, number, number + 1)
        assert line["date"] == day(number)
        assert line["events"] == len(today)
        assert line["embedded"] == len({row["user"] for row in today})
        known = {row["user"] for row in of_days(ROWS, 0, number + 1)}
        assert line["users"] == len(known)
        assert line["difference"] < 1e-6
        assert line["recall"] == line["recall_full"]
        pairs = {(row["user"], row["item"]) for row in of_days(ROWS, number + 1, number + 2)}
        pairs = {(user, item) for user, item in pairs if user in known}
        assert line["pairs"] == len(pairs)
    root = out / "incremental"
    items = snapshot.read_parquet(root / state.current(root) / "items.parquet")
    hits = {"recall": 0, "recall_stale": 0}
    users = snapshot.SnapshotVectors.of(users_of(root))
    for user, item in pairs:
        for name, vectors in (("recall", users), ("recall_stale", first)):
            if (vector := vectors.get(user)) is not None:
                best = np.argsort(-(snapshot.vectors_of(items) @ vector))[:10]
                hits[name] += item in items["item_id"].take(best).to_pylist()
    for name, count in hits.items():
        assert lines[-1][name] == pytest.approx(count / len(pairs))


def users_of(root):
    return snapshot.read_parquet(root / state.current(root) / "users.parquet")


def test_no_pair_no_recall():
    none = {"user": np.zeros(0, int), "item": np.zeros(0, int)}
    assert np.isnan(replay._recall(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), none))


def test_wrong_input(world, tmp_path):
    workdir, log = world
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="full is not empty: name a new folder"):
        replay.replay(workdir, tmp_path / "full", Span(day(0), 1, 1), (log,))
    with pytest.raises(ValueError, match=f"the log has no event in the 2 days after {day(300)}"):
        replay.replay(workdir, tmp_path / "new", Span(day(300), 2, 1), (log,))
