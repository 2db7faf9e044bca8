"""A final run sees everybody and the last day, with the settings of the run that was evaluated."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_run
from logs import given, make_events, write_parquet

from pinnerformer_jax import evaluate, run, train
from pinnerformer_jax.data.timelines import TRAIN, Timelines, read_manifest
from pinnerformer_jax.retrieval.priors import read_priors
from pinnerformer_jax.serving import daily
from pinnerformer_jax.serving.manifest import read_manifest as read_state
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.training import loop
from pinnerformer_jax.training.checkpoint import Checkpoints, read_checkpoint
from pinnerformer_jax.training.final import Origin, as_many_epochs, read_origin
from pinnerformer_jax.training.optimiser import learning_rate
from pinnerformer_jax.training.run_record import read_record

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def late_events():
    """A user and an item that the log has only in its last days, so after t of the evaluated run."""
    last = max(row["time"] for row in make_events(users=80))
    like = {"action": "like", "surface": "home", "duration": 9.0}
    return [
        {"user": "late", "item": item, "time": last - k, **like} for k, item in enumerate(("new", "i1", "i2"))
    ]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """(config, workdir) of an evaluated run whose best checkpoint is not its last."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_parquet(folder / "log.parquet", [*make_events(users=80), *late_events()])
    log = given(folder, evaluation_share=0.3, validation_share=0.2)
    tiny = small_run.config(folder / "prepared")
    config = dataclasses.replace(
        tiny,
        data=log.data,
        items=dataclasses.replace(log.items, table="", vector="", built_dim=8),  # built, from training users
    )
    run.prepare(config)
    with jax.numpy_dtype_promotion("standard"):
        with pytest.MonkeyPatch.context() as patch:
            best_at_8 = iter([3.0, 1.0, 2.0])
            patch.setattr(loop, "_validation", lambda *args: lambda state: next(best_at_8))
            train.fit(config, folder / "run")
        assert read_checkpoint(folder / "run").step == 8
        evaluate.evaluate_run(folder / "run")
    return config, folder / "run"


@pytest.fixture(scope="module")
def final(evaluated, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("final") / "run-final"
    with jax.numpy_dtype_promotion("standard"):
        train.fit_final(evaluated[1], workdir)
    return workdir


def test_all_users_train_and_the_last_day_is_seen(evaluated, final):
    before, now = (Timelines.open(folder) for folder in (evaluated[0].data.prepared, final / "prepared"))
    assert sum(before.manifest.counts["users"].values()) == 80
    assert now.manifest.counts["users"] == {"train": 81, "validation": 0, "evaluation": 0}
    assert "late" in now.user_ids(now.with_role(TRAIN))
    for shard in now.shards:
        np.testing.assert_array_equal(shard.cut, np.diff(shard.offsets))  # every event is up to t
    assert now.manifest.split_time == now.manifest.evaluation_end == before.manifest.evaluation_end
    model = TrainedModel.load(final, "best")
    new = model.catalog.item_ids.index("new")
    assert model.catalog.reachable[new]
    assert new < model.catalog.trained


def test_settings_and_schedule_are_those_of_the_evaluated_run(evaluated, final):
    old, new = read_record(evaluated[1]).config, read_record(final).config
    origin = read_origin(final)
    assert origin == Origin(str(evaluated[1]), 8, origin.users, 81)
    assert 30 < origin.users < 50
    assert (new.model, new.objective, new.items) == (old.model, old.objective, old.items)
    longer = {"steps": -(-12 * 81 // origin.users), "stop_after": -(-8 * 81 // origin.users)}
    assert new.training == dataclasses.replace(old.training, **longer)
    with Checkpoints(final, read_only=True) as checkpoints:
        assert checkpoints.step("best") == checkpoints.step("last") == longer["stop_after"]
    assert loop.is_finished(final)


@pytest.mark.parametrize("users", [40, 41, 55, 79])
def test_the_learning_rate_ends_where_the_best_checkpoint_had_it(evaluated, users):
    config = evaluated[0]
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=1200))
    scaled = as_many_epochs(config, Origin("", 700, 40, users)).training
    assert scaled.last_step == np.ceil(700 * users / 40)
    before, now = learning_rate(config.training)(700), learning_rate(scaled)(scaled.last_step)
    np.testing.assert_allclose(before, now, rtol=0.01)
    assert as_many_epochs(config, Origin("", 0, 40, users)).training.last_step == 1  # the start was the best


def test_its_priors_are_those_that_were_fitted(evaluated, final):
    step = read_checkpoint(final).step
    assert read_priors(final, step)[0] == read_priors(evaluated[1], 8)[0]
    assert "fitted for step 8 of" in json.loads((final / "priors.json").read_text())["note"]


def test_it_cannot_be_evaluated(evaluated, final, capsys):
    with pytest.raises(ValueError, match=f"nothing is left to evaluate it on; evaluate {evaluated[1]}"):
        evaluate.evaluate_run(final)
    with pytest.raises(SystemExit):
        evaluate.main(["--workdir", str(final)])
    assert "was trained on all users" in capsys.readouterr().err
    with pytest.raises(ValueError, match="nothing is left to evaluate"):
        train.fit_final(final, final.with_name("again"))


def test_a_state_of_it_serves_everybody(final, tmp_path):
    day = "2023-12-24"
    name = daily.run(Job(workdir=final, snapshots=tmp_path, date=day, everyone=True), lambda line: None)
    state = read_state(tmp_path, name)
    model = TrainedModel.load(final, "best")
    assert state.model_version == model.version
    assert state.priors == model.priors
    served = Recommender.open(tmp_path)
    assert len(served.recommend("late", k=3).items) == 3
    assert "new" in {found.id for found in served.recommend("u001", k=16).items}


def test_a_final_run_that_was_stopped_equals_one_that_was_not(
    evaluated, final, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        usual = loop.training_batches

        def stopping(*args, **keywords):
            for k, batch in enumerate(usual(*args, **keywords)):
                if k == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        patch.setattr(loop, "training_batches", stopping)
        stopped = train.fit_final(evaluated[1], tmp_path / "run-final")
    assert int(stopped.step) < read_checkpoint(final).step
    assert not loop.is_finished(tmp_path / "run-final")
    train.fit_final(evaluated[1], tmp_path / "run-final")
    assert "is there and is not ingested again" in capsys.readouterr().out
    jax.tree.map(
        np.testing.assert_array_equal,
        read_checkpoint(tmp_path / "run-final").params,
        read_checkpoint(final).params,
    )


def test_two_processes_make_the_same_final_run(evaluated, final, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "pinnerformer_jax.train", "--final", str(evaluated[1])]
    command += ["--workdir", str(tmp_path / "run"), "--hosts", address, "--host-count", "2", "--host-index"]
    simulated = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [*command, str(index)], env=os.environ | simulated | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]  # fmt: skip
    (out, error), (silent, _) = (process.communicate(timeout=600) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], error
    assert "final run in" in out
    assert "final run in" not in silent
    assert read_origin(tmp_path / "run") == read_origin(final)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6),
        read_checkpoint(tmp_path / "run").params,
        read_checkpoint(final).params,
    )


def test_a_later_log_is_named_on_the_command_line(evaluated, tmp_path, capsys):
    log = [*make_events(users=90), *late_events()]
    later = write_parquet(tmp_path / "later.parquet", log)
    arguments = ["--final", str(evaluated[1]), "--workdir", str(tmp_path / "run"), "--data.events", later]
    assert train.main(arguments) == 0
    assert read_manifest(tmp_path / "run" / "prepared").counts["users"]["train"] == 91
    assert "final run in" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train.main([*arguments, "--model.width", "32"])
    assert "undo:\n  model.width: 16 -> 32" in capsys.readouterr().err


def test_a_run_that_was_not_evaluated_is_refused(evaluated, tmp_path):
    shutil.copytree(evaluated[1], tmp_path / "run")
    (tmp_path / "run" / "priors.json").unlink()
    with pytest.raises(ValueError, match="was not evaluated, and a final run takes its priors"):
        train.fit_final(tmp_path / "run", tmp_path / "final")
    assert not (tmp_path / "final").exists()


def test_it_needs_a_folder_of_its_own(evaluated):
    with pytest.raises(ValueError, match="is the evaluated run itself"):
        train.fit_final(evaluated[1], evaluated[1])


def test_vectors_of_another_making_are_refused(evaluated, tmp_path):
    config = train.final_config(evaluated[1], tmp_path / "final")
    wrong = dataclasses.replace(config.data, prepared=evaluated[0].data.prepared)
    with pytest.raises(ValueError, match=r"was not ingested with data\.final"):
        train.fit_final(evaluated[1], tmp_path / "final", dataclasses.replace(config, data=wrong))


def test_a_folder_of_the_evaluated_run_that_was_moved_is_named(evaluated, tmp_path):
    folder = evaluated[0].data.prepared
    shutil.move(folder, tmp_path / "elsewhere")
    try:
        with pytest.raises(FileNotFoundError, match="move it back, or put a link to it there"):
            train.fit_final(evaluated[1], tmp_path / "final")
    finally:
        shutil.move(tmp_path / "elsewhere", folder)
