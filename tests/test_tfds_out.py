"""TFDS out: what was prepared comes back exactly, and TensorFlow is imported neither way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from prepared import write_prepared

from pinnerformer_jax.data.timelines import COLUMNS, EVALUATION, ROLES, TRAIN, VALIDATION, Timelines
from pinnerformer_jax.ingestion.tfds_out import publish

SPLIT = 1_700_000_000


def _prepared(path: Path, users: int = 30) -> Path:
    """Users 2^60, 2^60 + 1, ..., of which every fifth is evaluated on and one validates."""
    rng = np.random.default_rng(0)
    events = {
        2**60 + user: [
            (*rng.integers([9, 3, 3]).tolist(), SPLIT + 10 * k, rng.random() * 100)
            for k in range(-rng.integers(1, 40), rng.integers(0, 5))
        ]
        for user in range(users)
    }
    roles = {user: EVALUATION if user % 5 == 4 else TRAIN for user in events} | {2**60 + 3: VALIDATION}
    item_ids = [f"ä{item}" for item in range(9)]
    return write_prepared(path, events, SPLIT, roles=roles, item_ids=item_ids, shards=3)


def test_round_trip_is_exact(tmp_path):
    prepared = _prepared(tmp_path / "prepared")
    folder = publish(prepared, tmp_path / "tfds")
    builder = tfds.builder_from_directory(folder)
    timelines = Timelines.open(prepared)
    for split, role in ROLES.items():
        source, users = builder.as_data_source(split), timelines.with_role(role)
        assert len(source) == len(users) > 0
        for example, user, user_id in zip(source, users, timelines.user_ids(users), strict=True):
            which = np.searchsorted(timelines.first_user, user, side="right") - 1
            shard, row = timelines.shards[which], user - timelines.first_user[which]
            rows = slice(*shard.offsets[row : row + 2])
            assert int(example["user_id"]) == user_id
            assert [item.decode() for item in example["item"]] == [f"ä{item}" for item in shard.item[rows]]
            for column in COLUMNS.keys() - {"item"}:
                assert example[column].dtype == COLUMNS[column]
                np.testing.assert_array_equal(example[column], getattr(shard, column)[rows])


def test_metadata_names_what_the_numbers_mean(tmp_path):
    prepared = _prepared(tmp_path / "prepared")
    metadata = tfds.builder_from_directory(publish(prepared, tmp_path / "tfds")).info.metadata
    manifest = Timelines.open(prepared).manifest
    assert metadata["actions"] == manifest.actions
    assert metadata["surfaces"] == manifest.surfaces
    assert metadata["split_time"] == manifest.split_time
    assert metadata["evaluation_end"] == manifest.evaluation_end


def test_a_role_without_users_has_no_split(tmp_path):
    prepared = write_prepared(tmp_path / "prepared", {"a": [(0, 1, 1, SPLIT, 0.0)]}, SPLIT)
    builder = tfds.builder_from_directory(publish(prepared, tmp_path / "tfds"))
    assert list(builder.info.splits) == ["train"]


def test_found_by_name_and_version(tmp_path):
    prepared = _prepared(tmp_path / "prepared")
    folder = publish(prepared, tmp_path / "tfds", name="my_log", version="2.0.1")
    assert folder == tmp_path / "tfds" / "my_log" / "2.0.1"
    assert tfds.builder("my_log", data_dir=tmp_path / "tfds").info.full_name == "my_log/2.0.1"


def test_errors_name_the_cure(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run python -m pinnerformer_jax\.ingest"):
        publish(tmp_path / "nothing", tmp_path / "tfds")
    prepared = _prepared(tmp_path / "prepared", users=5)
    publish(prepared, tmp_path / "tfds")
    with pytest.raises(FileExistsError, match=r"pinnerformer_timelines/1\.0\.0: published already.*version"):
        publish(prepared, tmp_path / "tfds")
    with pytest.raises(ValueError, match="banana"):
        publish(prepared, tmp_path / "tfds", version="banana")
    with pytest.raises(ValueError, match="My Log"):
        publish(prepared, tmp_path / "tfds", name="My Log")


BOTH_WAYS = """
import sys
from pathlib import Path
import tensorflow_datasets as tfds
from pinnerformer_jax.ingestion.tfds_in import export
from pinnerformer_jax.ingestion.tfds_out import publish
prepared, out = map(Path, sys.argv[1:])
builder = tfds.builder_from_directory(publish(prepared, out, name="my_log"))
assert len(builder.as_data_source("train")[0]["item"]) > 0
assert export("my_log", "", out).is_file()
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_is_never_imported(tmp_path):
    # Where it is not installed an attempt could pass unseen, so one is put there that ends the program.
    tripwire = tmp_path / "path" / "tensorflow"
    tripwire.mkdir(parents=True)
    (tripwire / "__init__.py").write_text("raise SystemExit('tensorflow was imported')")
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": f"{tripwire.parent}:{root}",
        "TFDS_DATA_DIR": str(tmp_path / "tfds"),
    }
    arguments = [str(_prepared(tmp_path / "prepared", users=5)), str(tmp_path / "tfds")]
    done = subprocess.run(
        [sys.executable, "-c", BOTH_WAYS, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
