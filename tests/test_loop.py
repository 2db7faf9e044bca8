"""The loop in this process: what it leaves behind, what stops it, and what it never does."""

import dataclasses
import json
import logging
import os
import signal

import jax
import numpy as np
import pytest
import small_run
from jax.sharding import NamedSharding, PartitionSpec
from prepared import write_prepared

from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.train import fit
from pinnerformer_jax.training import loop
from pinnerformer_jax.training.checkpoint import Checkpoints, load_for_inference
from pinnerformer_jax.training.loop import NonFiniteError, NoPairsError, open_run, train
from pinnerformer_jax.training.metrics_log import Meter
from pinnerformer_jax.training.optimiser import learning_rate
from pinnerformer_jax.training.sharding import make_mesh
from pinnerformer_jax.training.state import create

pytestmark = pytest.mark.slow  # a train step compiles


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return small_run.write_data(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    """The runs of this file share their programs."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path_factory.mktemp("programs")), 0.0), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """(workdir, final state) of a run that went through."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, jax.device_get(fit(small_run.config(prepared), workdir))


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir, config):
    abstract = jax.eval_shape(lambda: create(config, Sizes(8, 3, 3, items=50))[1])
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(abstract, NamedSharding(make_mesh(), PartitionSpec()))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Send the process a signal when a step's metrics have been read."""
    push = Meter.push

    def push_then_signal(self, metrics):
        push(self, metrics)
        if self.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Meter, "push", push_then_signal)


def test_the_curve_has_each_step_once_and_falls(finished, prepared):
    lines, rate = lines_of(finished[0]), learning_rate(small_run.config(prepared).training)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8, 12]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1
    assert all(0 <= line["input_wait_share"] <= 1 for line in lines if "loss" in line)
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates == pytest.approx(
        [np.mean([rate(step), rate(step + 1)]) for step in range(0, 12, 2)], rel=1e-5
    )


def test_what_is_saved_is_the_final_state(finished, prepared):
    workdir, state = finished
    assert int(state.step) == 12
    assert_equal(jax.device_get(saved(workdir, small_run.config(prepared))), state)
    assert_equal(jax.device_get(load_for_inference(workdir, "last")[2]), state.params)


def test_a_finished_run_is_left_alone(finished, prepared, capsys):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    state = fit(small_run.config(prepared), str(finished[0]))
    assert "all 12 steps are done" in capsys.readouterr().out
    assert_equal(jax.device_get(state), finished[1])
    assert (finished[0] / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_call_resumes_exactly(
    finished, prepared, tmp_path, monkeypatch, capsys, number
):
    config = small_run.config(prepared)
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        stop_at(patched, 5, number)
        state = train(*open_run(config, tmp_path))
    assert int(state.step) == 6  # the step under way is finished
    assert "stopped after step 6, which is saved; resume with the same command" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    state = train(*open_run(config, tmp_path))
    assert "resuming after step 6" in capsys.readouterr().out
    assert_equal(jax.device_get(state), finished[1])
    assert [line["step"] for line in lines_of(tmp_path) if "loss" in line] == [2, 4, 6, 8, 10, 12]
    validation = [
        [line for line in lines_of(workdir) if "validation_loss" in line]
        for workdir in (tmp_path, finished[0])
    ]
    assert validation[0] == validation[1]


def test_a_run_goes_on_with_another_number_of_devices(finished, prepared, tmp_path, monkeypatch):
    config = small_run.config(prepared)
    with monkeypatch.context() as patched:
        stop_at(patched, 5)
        train(*open_run(config, tmp_path))
    monkeypatch.setattr(loop, "make_mesh", lambda: make_mesh(2))
    state = train(*open_run(config, tmp_path))
    assert int(state.step) == 12
    losses, wanted = (
        [line["loss"] for line in lines_of(workdir) if "loss" in line] for workdir in (tmp_path, finished[0])
    )
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(prepared, tmp_path, monkeypatch):
    config = small_run.config(prepared, log_every=100)
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        good = jax.device_get(train(*open_run(config, tmp_path)))
    run, state = open_run(config, tmp_path)
    poisoned = state._replace(params=jax.tree.map(lambda leaf: leaf * np.float32("nan"), state.params))
    with pytest.raises(NonFiniteError, match=r"^step 6: the loss or its gradient .*checkpoint of step 5 is"):
        train(run, poisoned)
    assert_equal(jax.device_get(saved(tmp_path, config)), good)


def test_a_validation_loss_that_is_not_finite_is_not_saved(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_validation", lambda *_: lambda state: float("nan"))
    with pytest.raises(NonFiniteError, match=r"^step 4: the validation loss .*There is no checkpoint yet"):
        train(*open_run(small_run.config(prepared), tmp_path))


def test_nobody_to_train_on_is_said_before_anything_is_written(tmp_path):
    one_event = {f"user-{k}": [(0, 1, 1, small_run.SPLIT - 9, 0.0)] for k in range(9)}
    data = write_prepared(tmp_path / "data", one_event, small_run.SPLIT, items=50)
    with pytest.raises(ValueError, match="no user of this role has two events before the split"):
        open_run(small_run.config(data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_to_learn_from_is_said_and_not_saved(prepared, tmp_path):
    config = small_run.config(prepared)
    objective = dataclasses.replace(config.objective, horizon_days=1 / 86_400)
    with pytest.raises(NoPairsError, match=r"no user had a positive within objective\.horizon_days"):
        train(*open_run(dataclasses.replace(config, objective=objective), tmp_path))
    assert not list((tmp_path / "checkpoints").rglob("*state*"))


def test_nothing_is_compiled_after_the_first_step(finished, prepared, tmp_path, monkeypatch, caplog):
    # `finished` ran before, so that what saving a checkpoint compiles on its first use is compiled.
    seen = []
    push = Meter.push

    def push_and_count(self, metrics):
        push(self, metrics)
        seen.append(len(caplog.records))

    monkeypatch.setattr(Meter, "push", push_and_count)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train(*open_run(small_run.config(prepared), tmp_path))
    compiled = [record for record in caplog.records if "ompil" in record.getMessage()]
    assert compiled  # the log is on
    late = [record.getMessage() for record in caplog.records[seen[0] :] if record in compiled]
    assert late == []


def test_parts_of_a_batch_give_the_losses_of_the_whole(tmp_path, capsys):
    rng = np.random.default_rng(0)
    users = {
        f"user-{k}": [
            (int(item), 1, 1, small_run.SPLIT - 3600 * (n - hour), 0.0)
            for hour, item in enumerate(rng.integers(0, 50, n))
        ]
        for k, n in enumerate([40] * 4 + [6] * 28)
    }
    data = write_prepared(tmp_path / "data", users, small_run.SPLIT, items=50)
    losses = []
    for parts in (4, 1):
        config = small_run.config(data, batch_size=32, steps=4, length_parts=parts)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, max_length=32))
        train(*open_run(config, tmp_path / f"run-{parts}"))
        losses.append([line["loss"] for line in lines_of(tmp_path / f"run-{parts}") if "loss" in line])
    assert "for parts of lengths 32, 8, 8, 4 compiled" in capsys.readouterr().out
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_no_array_is_shipped_by_accident(prepared, tmp_path, monkeypatch):
    def ship_the_first_only(mesh, batch, real=loop.shard_batch):
        monkeypatch.setattr(loop, "shard_batch", lambda mesh, batch: batch)
        return real(mesh, batch)

    monkeypatch.setattr(loop, "shard_batch", ship_the_first_only)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(*open_run(small_run.config(prepared), tmp_path))


def test_without_validation_users_the_best_is_the_last(tmp_path, capsys):
    data = small_run.write_data(tmp_path / "data", validation=0)
    state = train(*open_run(small_run.config(data), tmp_path / "run"))
    assert "no validation users" in capsys.readouterr().out
    assert_equal(jax.device_get(load_for_inference(tmp_path / "run")[2]), jax.device_get(state.params))


def test_what_does_not_fit_is_said_before_anything_is_written(prepared, tmp_path):
    config = small_run.config(prepared, batch_size=12)
    with pytest.raises(ValueError, match=r"training\.batch_size = 12: must be a multiple of the 8 devices"):
        open_run(config, tmp_path / "run")
    config = small_run.config(prepared)
    lost = dataclasses.replace(config, data=dataclasses.replace(config.data, prepared=str(tmp_path / "no")))
    with pytest.raises(FileNotFoundError, match=r"run python -m pinnerformer_jax\.ingest"):
        open_run(lost, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def gains(*values):
    """Stands for the gain of validation users: these values, at the start and at each checkpoint."""
    left = list(values)
    return lambda graphdef, params: (left.pop(0), 0.02)


def test_the_best_checkpoint_has_the_highest_gain_and_not_the_lowest_loss(prepared, tmp_path):
    config = small_run.config(prepared)
    train(*open_run(config, tmp_path / "run", gain=gains(0.05, 0.1, 0.3, 0.2)))
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert (checkpoints.step("best"), checkpoints.step("last")) == (8, 12)
        assert checkpoints.chosen_by() == "gain"
    validated = [line for line in lines_of(tmp_path / "run") if "validation_gain" in line]
    assert [line["validation_gain"] for line in validated] == [0.05, 0.1, 0.3, 0.2]
    assert ["validation_loss" in line for line in validated] == [False, True, True, True]


def test_where_training_gains_nothing_the_start_is_kept(prepared, tmp_path, capsys):
    config = small_run.config(prepared, steps=40, patience=2)
    train(*open_run(config, tmp_path / "run", gain=gains(0.3, 0.1, 0.2)))
    assert "has not risen for 2 checkpoints, since step 0, which is kept" in capsys.readouterr().out
    run, state = open_run(config, tmp_path / "other")
    assert_equal(jax.device_get(load_for_inference(tmp_path / "run")[2]), jax.device_get(state.params))
    assert run.gain is None


def test_training_ends_when_the_gain_no_longer_rises_and_says_so(prepared, tmp_path, capsys):
    config = small_run.config(prepared, steps=40, patience=2)
    state = train(*open_run(config, tmp_path / "run", gain=gains(0.05, 0.1, 0.3, 0.2, 0.25)))
    assert int(state.step) == 16
    said = "ends after step 16: the discounted gain of validation users has not risen for 2"
    assert said in capsys.readouterr().out
    state = train(*open_run(config, tmp_path / "run", gain=gains()))
    assert int(state.step) == 16
    assert "nothing is left to do" in capsys.readouterr().out
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert (checkpoints.step("best"), checkpoints.step("last")) == (8, 16)
    patient = small_run.config(prepared, steps=40, patience=0)
    state = train(*open_run(patient, tmp_path / "run", gain=gains(*[0.0] * 6)))
    assert int(state.step) == 40


def test_few_validation_users_leave_the_choice_to_the_loss(prepared, finished):
    workdir, _ = finished  # `fit` asked the eight validation users, who are too few
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.chosen_by() == "loss"
