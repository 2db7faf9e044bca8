"""From a job to what the state is made of."""

import pyarrow as pa
import pytest
from daily_run import ROWS, TRAINED, day, make_first_state, write_log

from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.plan import Job, make_plan, read_ids
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


def test_ids_have_the_type_of_the_data(tmp_path):
    (tmp_path / "ids.txt").write_text("\ufeff7\r\n\n-1\n", encoding="utf-8")
    assert read_ids(tmp_path / "ids.txt", pa.int64()).to_pylist() == [7, -1]
    assert read_ids(tmp_path / "ids.txt", pa.string()).to_pylist() == ["7", "-1"]
    (tmp_path / "ids.txt").write_text("seven\n")
    with pytest.raises(ValueError, match=r"ids\.txt: user ids are of type int64, one a line"):
        read_ids(tmp_path / "ids.txt", pa.int64())
    with pytest.raises(ValueError, match="--keep 1: at least 2"):
        Job(tmp_path, tmp_path, keep=1)
