"""From a job to what the state is made of."""

import dataclasses

import pytest
from daily_run import ROWS, TRAINED, day, make_first_state, write_log

from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.plan import Job, make_plan
from pinnerformer_jax.serving.trained_model import TrainedModel


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, workdir, model, snapshots with a state of day 29)"""
    folder = tmp_path_factory.mktemp("world")
    workdir, snapshots = make_first_state(folder)
    return folder, workdir, TrainedModel.load(workdir, "best"), snapshots


def test_the_first_plan_has_no_base(world, tmp_path):
    _, workdir, model, _ = world
    plan = make_plan(Job(workdir, tmp_path, day(3)), model)
    assert (plan.base, plan.base_folder, plan.previous) == (None, None, None)
    assert (plan.same_data, plan.same_model) == (False, False)
    assert plan.end == state.day_end(day(3)).timestamp()
    assert plan.name.startswith(f"model_version={model.version}/ds={day(3)}/run=")


def test_a_plan_is_built_on_the_served_state(world):
    folder, workdir, model, snapshots = world
    log = write_log(folder, ROWS, TRAINED)
    job = Job(workdir, snapshots, day(TRAINED), (log,))
    plan = make_plan(job, model)
    assert plan.base_folder == snapshots / state.current(snapshots)
    assert (plan.same_data, plan.same_model) == (True, True)
    assert list(plan.inputs) == ["events 0"]
    assert make_plan(job, model).name == plan.name
    other = make_plan(Job(workdir, snapshots, day(TRAINED), (log,), everyone=True), model)
    assert other.name != plan.name
    other = make_plan(Job(workdir, snapshots, day(TRAINED), (log,), dtype="float32"), model)
    assert (other.same_data, other.same_model) == (True, False)


def test_the_day_is_the_served_one_if_there_is_no_log(world):
    _, workdir, model, snapshots = world
    assert make_plan(Job(workdir, snapshots), model).date == day(TRAINED - 1)


def test_at_least_two_states_are_kept(tmp_path):
    with pytest.raises(ValueError, match="--keep 1: at least 2"):
        Job(tmp_path, tmp_path, keep=1)


def test_users_to_delete_who_are_in_no_data_are_named_and_refused_if_strict(world, tmp_path):
    _, workdir, model, _ = world
    (tmp_path / "list.txt").write_text("u003 \nu004\t\nnobody\n", encoding="utf-8")
    job = Job(workdir, tmp_path / "snapshots", day(3), tombstones=tmp_path / "list.txt")
    with pytest.raises(ValueError, match=r"list.txt: of 3 users 1 are in no data: 'nobody'; nothing was del"):
        make_plan(dataclasses.replace(job, strict=True), model)
    assert not list(tmp_path.rglob("*.parquet"))
    job.snapshots.mkdir()
    plan = make_plan(job, model)
    assert plan.unknown == ["nobody"]
    assert sorted(plan.deleted.to_pylist()) == ["nobody", "u003", "u004"]
    assert make_plan(job, model).unknown == []  # who was deleted is known
