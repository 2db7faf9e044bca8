"""Last and best, what may change between runs, and damage."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from jax.sharding import NamedSharding, PartitionSpec

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.timelines import read_manifest
from pinnerformer_jax.files import with_checksum
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training import checkpoint as module
from pinnerformer_jax.training.checkpoint import Checkpoints, load_for_inference
from pinnerformer_jax.training.run_record import RunRecord, check_ingested, claim, data_digest, read_record
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import create

SIZES = Sizes(8, 3, 3)
CONFIG = small_run.config("data")
RECORD = RunRecord(CONFIG, SIZES, "abc")


@pytest.fixture(scope="module")
def state():
    """One state, on the host, whose step and parameters tests replace."""
    return jax.device_get(jax.jit(lambda: create(CONFIG, SIZES)[1])())


def at(state, step, value=0.0):
    params = jax.tree.map(lambda leaf: np.full_like(leaf, value), state.params)
    return replicate(make_mesh(), state._replace(params=params, step=np.int32(step)))


def replicated():
    return NamedSharding(make_mesh(), PartitionSpec())


def abstract():
    return jax.eval_shape(lambda: create(CONFIG, SIZES)[1])


def claim_and_train(workdir, record):
    """As far as `claim` can tell."""
    claim(workdir, record)
    (workdir / "checkpoints" / "1").mkdir(parents=True)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_whole_state_comes_back(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 7, 0.5))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(), replicated())
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert equal(restored, at(state, 7, 0.5))
    assert all(leaf.sharding == replicated() for leaf in jax.tree.leaves(restored))


@pytest.mark.slow
def test_last_and_best_are_kept_and_no_more(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5)):
            checkpoints.save(at(state, step, loss), loss)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.step("last"), checkpoints.step("best")) == (4, 2)
        checkpoints.save(at(state, 5))  # as a stop signal does, without a validation loss
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "5"]


@pytest.mark.slow
def test_the_gain_decides_and_where_it_cannot_tell_the_loss(tmp_path, state):
    best = []
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 0), gain=(0.105, 0.02))  # the start, whose loss is not known
        for step, (loss, gain) in enumerate(
            [(3.0, 0.10), (2.0, 0.095), (1.0, 0.05), (2.5, 0.099), (4.0, 0.2), (3.9, 0.191)], start=1
        ):
            checkpoints.save(at(state, step, loss), loss, (gain, 0.02))
            best.append(checkpoints.step("best"))
    # 1, 2: within half of the standard error, of a lower loss. 3: too low. 4: within, of a higher loss.
    assert best == [1, 2, 2, 2, 5, 6]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 7))  # as a stop signal does
        assert (checkpoints.step("best"), checkpoints.step("last")) == (6, 7)
        checkpoints.save(at(state, 8, 1.0), 1.0, (0.3, 0.02))  # a resumed run goes on comparing
        assert checkpoints.step("best") == 8
        assert checkpoints.chosen_by() == "gain"


@pytest.mark.slow
def test_a_checkpoint_with_a_gain_is_better_than_those_of_an_older_version(tmp_path, state, monkeypatch):
    older = {"validation_loss": 1.0, "validation_recall": 0.2, "order": 3.0}
    with monkeypatch.context() as patch:
        patch.setattr(module, "with_checksum", lambda metrics: with_checksum(metrics | older))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(at(state, 1), 1.0)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.chosen_by() == "recall"
        checkpoints.save(at(state, 2), 2.0, (0.05, 0.02))
        assert (checkpoints.step("best"), checkpoints.chosen_by()) == (2, "gain")


def test_without_validation_the_best_is_the_last(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.step() is None
        checkpoints.save(at(state, 1))
        checkpoints.save(at(state, 2))
        assert checkpoints.step("best") == 2


def test_a_step_that_is_there_is_left(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1, 0.5), 1.0)
        checkpoints.save(at(state, 1, 0.6))
        assert equal(checkpoints.restore(abstract(), replicated()).params, at(state, 1, 0.5).params)


def test_what_is_saved_is_the_state_as_it_was(tmp_path, state):
    """The state's memory is donated to the next step while the checkpoint is still being written."""
    change = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 + 9, tree), donate_argnums=0)
    big = at(state, 3, 0.5)._replace(sketch=jnp.ones((4, 1 << 20)))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(big)
        jax.block_until_ready(change(big))
    with Checkpoints(tmp_path) as checkpoints:
        shapes = abstract()._replace(sketch=jax.ShapeDtypeStruct((4, 1 << 20), jnp.float32))
        restored = checkpoints.restore(shapes, replicated())
    assert equal(restored.params, at(state, 3, 0.5).params)
    assert (np.asarray(restored.sketch) == 1).all()


def test_inference_reads_the_best_parameters_alone(tmp_path, state):
    claim(tmp_path, RECORD)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1, 0.25), 1.0)
        checkpoints.save(at(state, 2, 0.5), 2.0)
    for rest in (tmp_path / "checkpoints").glob("*/rest/**/*"):
        if rest.is_file():
            rest.unlink()  # not needed
    config, graphdef, params = load_for_inference(tmp_path)
    assert config == CONFIG
    assert graphdef == jax.eval_shape(lambda: create(CONFIG, SIZES))[0]
    assert equal(params, at(state, 0, 0.25).params)
    assert equal(load_for_inference(tmp_path, "last")[2], at(state, 0, 0.5).params)


def test_inference_touches_nothing_that_a_training_process_may_be_writing(tmp_path, state):
    claim(tmp_path, RECORD)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1.0)
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    load_for_inference(tmp_path)
    assert unfinished.exists()


def test_no_run_and_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run here"):
        load_for_inference(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    claim(tmp_path, RECORD)
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        load_for_inference(tmp_path)


def test_a_checkpoint_of_another_model_is_named_with_the_way_out(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1.0)
    wanted = abstract()
    wanted = wanted._replace(params={"another": wanted.params})
    unfit = pytest.raises(ValueError, match=r"checkpoints/1: .*another version of the model.*; train anew")
    with Checkpoints(tmp_path) as checkpoints, unfit:
        checkpoints.restore(wanted, replicated())


def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 1), 1.0)
        checkpoints.save(at(state, 2), 2.0)
    for file in (tmp_path / "checkpoints" / "2" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    damaged = pytest.raises(ValueError, match=r"checkpoints/2: this checkpoint is damaged.*back to step 1")
    with Checkpoints(tmp_path) as checkpoints, damaged:
        checkpoints.restore(abstract(), replicated())


@pytest.mark.parametrize("name", ["run[1]", "run*", "a?/run", "a\\run"])
def test_a_folder_whose_checkpoints_could_not_be_read_is_refused_by_its_sign(tmp_path, state, name):
    sign = next(sign for sign in "[*?\\" if sign in name)
    with pytest.raises(ValueError, match=f"with {re.escape(sign)} in its name; rename the folder"):
        Checkpoints(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_moved_to_a_name_with_brackets_is_read(tmp_path, state):
    claim(tmp_path / "run", RECORD)
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(at(state, 2, 0.5))
    (tmp_path / "run").rename(tmp_path / "run[1]")
    _, _, params = load_for_inference(tmp_path / "run[1]")
    assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(params))


def test_what_was_saved_is_read_back(tmp_path, state):
    """Every file is cut once the checkpoint is on disk."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1))
    checkpoints._manager.wait_until_finished()
    for file in (tmp_path / "checkpoints" / "1" / "rest").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="checkpoints/1: this checkpoint is damaged"):
        checkpoints.close()


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"config": {')
    with pytest.raises(ValueError, match=r"config\.json: not the record of a run"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("training", "learning_rate", 0.5),
        ("training", "batch_size", 32),
        ("training", "seed", 1),
        ("model", "width", 32),
        ("objective", "logq", False),
        ("data", "min_user_events", 9),
    ],
)
def test_a_changed_config_is_refused_with_the_difference(tmp_path, section, field, value):
    claim_and_train(tmp_path, RECORD)
    old = getattr(getattr(CONFIG, section), field)
    changed = dataclasses.replace(
        CONFIG, **{section: dataclasses.replace(getattr(CONFIG, section), **{field: value})}
    )
    with pytest.raises(ValueError, match=rf"{section}\.{field}: {old!r} -> {value!r}"):
        claim(tmp_path, RECORD._replace(config=changed))
    assert read_record(tmp_path) == RECORD


def test_what_leaves_the_run_what_it_was_may_change(tmp_path):
    claim_and_train(tmp_path, RECORD)
    changed = dataclasses.replace(
        CONFIG,
        name="other",
        data=dataclasses.replace(CONFIG.data, prepared="moved", events=("moved.csv",)),
        training=dataclasses.replace(
            CONFIG.training, log_every=1, checkpoint_every=1, input_workers=1, shard_items=True
        ),
        evaluation=dataclasses.replace(CONFIG.evaluation, cutoffs=(5,)),
    )
    claim(tmp_path, RECORD._replace(config=changed))
    assert read_record(tmp_path).config == changed


def test_other_data_are_refused(tmp_path):
    small_run.write_data(tmp_path / "a", seed=0)
    small_run.write_data(tmp_path / "b", seed=1)
    (tmp_path / "a").rename(tmp_path / "c")
    one, other = (data_digest(read_manifest(tmp_path / name)) for name in ("c", "b"))
    small_run.write_data(tmp_path / "a", seed=0)
    assert data_digest(read_manifest(tmp_path / "a")) == one != other
    claim_and_train(tmp_path / "run", RECORD._replace(data=one))
    with pytest.raises(ValueError, match=f"prepared data: {one} -> {other}"):
        claim(tmp_path / "run", RECORD._replace(data=other))


def test_a_folder_without_a_checkpoint_is_free(tmp_path):
    claim(tmp_path, RECORD)
    (tmp_path / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    claim(tmp_path, RECORD._replace(data="other"))
    assert read_record(tmp_path).data == "other"


def test_settings_that_the_data_were_not_prepared_with_are_refused(tmp_path):
    manifest = read_manifest(small_run.write_data(tmp_path / "data"))
    moved = dataclasses.replace(CONFIG.data, prepared="moved", events=("x.csv",))
    rules = dataclasses.replace(moved, positives=(PositiveRule(min_duration=5),))
    check_ingested(manifest, dataclasses.replace(CONFIG, data=rules))
    changed = dataclasses.replace(moved, min_user_events=9)
    with pytest.raises(
        ValueError, match=r"moved was prepared with other.*\n  data\.min_user_events: 2 -> 9$"
    ):
        check_ingested(manifest, dataclasses.replace(CONFIG, data=changed))


def test_the_record_is_plain_json(tmp_path):
    claim(tmp_path, RECORD)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["config"]["training"]["batch_size"] == 16
    assert values["sizes"] == {"item_dim": 8, "actions": 3, "surfaces": 3, "identities": 0, "items": 0}
