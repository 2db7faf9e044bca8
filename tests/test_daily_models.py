"""The daily job with another model, or vectors of another type, than the state before."""

import shutil

import numpy as np
import pytest
from daily_run import ROWS, TRAINED, day, expected, make_run, of_days, publish, run_day, users_of

from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.manifest import read_manifest, write_manifest


@pytest.mark.slow
def test_a_new_model_embeds_everyone_and_rolls_back_as_one(copied_state, first_state):
    snapshots = copied_state[2]
    run_day(copied_state, TRAINED)
    old = state.current(snapshots)
    other = make_run(first_state[0], ROWS, seed=1)
    name = publish(other, snapshots, dtype="float32")
    manifest = read_manifest(snapshots, name)
    assert manifest.date == day(TRAINED)
    assert manifest.base == old
    assert (
        manifest.counts.users.embedded_users
        == manifest.counts.users.users
        == len(users_of(snapshots, old)[0])
    )
    assert manifest.model_version != read_manifest(snapshots, old).model_version
    want = expected(other, of_days(ROWS, 0, TRAINED + 1))
    row, table = users_of(snapshots)
    for user in row:
        np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], want[user], atol=1e-6)
    items = snapshot.read_parquet(snapshots / name / "items.parquet")
    assert snapshot.version_of(items) == manifest.model_version
    assert state.rollback(snapshots) == (name, old)
    assert state.current(snapshots) == old


@pytest.mark.slow
def test_longer_histories_are_read_from_the_timelines_again(copied_state, first_state):
    snapshots = copied_state[2]
    run_day(copied_state, TRAINED)
    other = make_run(first_state[0], ROWS, seed=2, max_length=32)
    name = publish(other, snapshots, dtype="float32")
    want = expected(other, of_days(ROWS, 0, TRAINED + 1))
    row, table = users_of(snapshots, name)
    assert row.keys() == want.keys()
    assert max(table["n_events"].to_pylist()) > 24
    for user in row:
        np.testing.assert_allclose(snapshot.vectors_of(table)[row[user]], want[user], atol=1e-6)


def test_another_dtype_embeds_everyone(copied_state):
    _, workdir, snapshots = copied_state
    before = snapshot.vectors_of(users_of(snapshots)[1])
    name = publish(workdir, snapshots, dtype="float16")
    manifest = read_manifest(snapshots, name)
    assert manifest.dtype == "float16"
    assert manifest.counts.users.embedded_users == manifest.counts.users.users == len(before)
    after = snapshot.vectors_of(users_of(snapshots)[1])
    assert after.dtype == np.float16
    np.testing.assert_allclose(after, before, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["users.parquet", "items.parquet", "index"])
def test_a_part_of_another_model_is_refused(copied_state, first_state, part):
    """Someone put it there, manifest mended."""
    snapshots = copied_state[2]
    old, folder = state.current(snapshots), snapshots / state.current(snapshots)
    other = snapshots / publish(make_run(first_state[0], ROWS, seed=1), snapshots, dtype="float32")
    state.rollback(snapshots)
    if part == "index":
        shutil.rmtree(folder / part)
        shutil.copytree(other / part, folder / part)
    else:
        shutil.copy(other / part, folder / part)
    manifest = read_manifest(snapshots, old)
    (folder / "manifest.json").unlink()
    write_manifest(folder, manifest)
    with pytest.raises(ValueError, match="of model version") as refused:
        run_day(copied_state, TRAINED)
    for path in (folder, other):
        assert path.parents[1].name.removeprefix("model_version=") in str(refused.value)
    assert state.current(snapshots) == old
