"""A byte that changed, a file that was cut or emptied: what a verb reads is verified before it is used, and
the message names the file."""

import dataclasses
import gc
import shutil

import jax
import numpy as np
import pytest
from daily_run import make_first_state
from items_world import write_world

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.files import write_checked_json
from pinnerformer_jax.items.prepared_copy import made_by, write_copy
from pinnerformer_jax.retrieval.priors import Priors, read_priors, write_priors
from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.tombstones import tombstone_files
from pinnerformer_jax.studies.cells import Cell, read_cell
from pinnerformer_jax.training.checkpoint import read_checkpoint


def flipped(contents):
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]


def cut(contents):
    return contents[: len(contents) // 2]


def emptied(contents):
    return b""


damages = pytest.mark.parametrize("damage", [flipped, cut, emptied])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A prepared folder, a run, a state, and a list of deleted users."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "left").write_text("u001\n")
    workdir, snapshots = make_first_state(folder, tombstones=folder / "left")
    write_priors(workdir, Priors(0.5, 30.0, 0.25, 7.0), 1, "fitted somehow")
    return folder, workdir, snapshots


def unnoticed(folder, damage, use, named=None, files="**/*", most=999):
    """Files below a folder whose damage `use` neither refuses, with a message that names the file (or
    `named`), nor survives with the same result. Only the `most` largest are tried."""
    wanted, bad = use(), []
    found = [file for file in folder.glob(files) if file.is_file() and file.name != "LOCK"]
    for file in sorted(found, key=lambda file: file.stat().st_size)[-most:]:
        if not file.stat().st_size:
            continue
        contents = file.read_bytes()
        file.write_bytes(damage(contents))
        try:
            same = jax.tree.all(jax.tree.map(np.array_equal, use(), wanted))
            bad += [] if same else [(file, "another result")]
        except (ValueError, OSError) as error:
            message = str(error)
            bad += [] if str(named or file) in message and ";" in message else [(file, message)]
        file.write_bytes(contents)
    return bad


@damages
def test_prepared_folders(world, tmp_path, damage):
    shutil.copytree(world[0] / "prepared", tmp_path / "p")
    assert unnoticed(tmp_path / "p", damage, lambda: Timelines.open(tmp_path / "p").users) == []


@damages
def test_vectors_that_items_made(tmp_path, damage):
    timelines = Timelines.open(write_world(tmp_path / "p"))
    vectors = np.eye(timelines.manifest.counts["items"], 8, dtype=np.float32)
    write_copy(timelines, tmp_path / "out", vectors, {"method": "mine"})
    folder = tmp_path / "out" / "catalog"
    assert unnoticed(folder, damage, lambda: Timelines.open(tmp_path / "out").users) == []
    (folder / "vectors.json").write_bytes(damage((folder / "vectors.json").read_bytes()))
    with pytest.raises(ValueError, match=r"vectors\.json: altered"):
        made_by(tmp_path / "out")


@damages
def test_records_of_a_run(world, tmp_path, damage):
    for name in ("config.json", "priors.json"):
        shutil.copy(world[1] / name, tmp_path / name)
    shutil.copytree(world[1] / "checkpoints", tmp_path / "checkpoints")
    for name, use in (
        ("config.json", lambda: list(read_checkpoint(tmp_path)[0].name)),
        ("priors.json", lambda: str(read_priors(tmp_path, 1))),
    ):
        contents = (tmp_path / name).read_bytes()
        use()
        (tmp_path / name).write_bytes(damage(contents))
        with pytest.raises(ValueError, match=rf"{name}: (altered|not)"):
            use()
        (tmp_path / name).write_bytes(contents)


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ("metrics/metrics", 1),
        ("params/ocdbt.process_0/d/*", 1),
        pytest.param("params/**/*", 99, marks=pytest.mark.slow),
    ],
)
@damages
def test_checkpoints(world, tmp_path, damage, files, most):
    """A file that says nothing of the parameters may change; the message names the checkpoint's folder."""
    shutil.copy(world[1] / "config.json", tmp_path)
    shutil.copytree(world[1] / "checkpoints", tmp_path / "checkpoints")
    step = tmp_path / "checkpoints" / "1"
    assert unnoticed(step, damage, lambda: read_checkpoint(tmp_path).params, step, files, most) == []
    gc.collect()


@damages
def test_states(world, tmp_path, damage):
    shutil.copytree(world[2], tmp_path / "snapshots")
    root = tmp_path / "snapshots"

    def use():
        recommender = Recommender.open(root)
        return [str(recommender.recommend(user, 5)) for user in ("u000", "u001")]

    assert unnoticed(root, damage, use) == []
    assert len(tombstone_files(root)) == 1
    assert state.current(root)


@damages
def test_cells_of_a_study(tmp_path, damage):
    cell = Cell("mine", Config(), tmp_path)
    record = dataclasses.replace(read_cell(cell), parts=["retrieval"], numbers={"m": {"r": 0.5}}, seconds=1.0)
    write_checked_json(tmp_path / "measured.json", record.to_json())
    assert read_cell(cell) == record
    assert unnoticed(tmp_path, damage, lambda: str(read_cell(cell))) == []
