"""A prepared folder stays as it is under a reader: locks, and files that are compared before a result is
written."""

import errno
import fcntl
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from daily_run import ROWS, TRAINED, day, make_run, publish, write_log
from items_world import write_world
from prepared import write_prepared

from pinnerformer_jax import embed, evaluate, files
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.files import atomic_folder
from pinnerformer_jax.items import prepared_copy
from pinnerformer_jax.items.prepared_copy import write_copy
from pinnerformer_jax.serving import daily, state

READER = """
import sys
from pinnerformer_jax.data.timelines import Timelines
timelines = Timelines.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def prepared(path, title="old"):
    return write_prepared(path, {"u": [(0, 1, 1, 5, 1.0)]}, 10, items=3, titles=[title] * 3)


def reading(path):
    """A process that reads a prepared folder until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"
    return process


def replace(path, title="new"):
    with atomic_folder(path) as folder:
        prepared(folder, title)


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that knows no locks."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_folder_that_another_process_reads_is_not_replaced(tmp_path):
    path = prepared(tmp_path / "p")
    path.chmod(0o555)
    with reading(path) as reader:
        with pytest.raises(
            ValueError, match=r"p: a process is reading it, .* wait until .*, or write another"
        ):
            replace(path)
        assert Catalog.open(path).titles == ["old"] * 3
        reader.stdin.close()
    path.chmod(0o755)
    replace(path)
    assert Catalog.open(path).titles == ["new"] * 3


def test_a_writer_waits_for_a_reader_that_came_later(tmp_path, monkeypatch):
    path, said = prepared(tmp_path / "p"), []

    def say(text, **_):
        said.append(text)
        reader.stdin.close()

    monkeypatch.setattr(files, "print", say, raising=False)
    with atomic_folder(path) as folder:
        prepared(folder, "new")
        reader = reading(path)
    with reader:
        assert reader.wait() == 0
    assert said == [f"{path}: waiting until nobody reads it, to replace it"]
    assert Catalog.open(path).titles == ["new"] * 3


def test_a_folder_that_this_process_reads_no_more_is_free(tmp_path):
    path = prepared(tmp_path / "p")
    circle = [Timelines.open(path)]
    circle.append(circle)
    with pytest.raises(ValueError, match="a process is reading it"):
        replace(path)
    del circle
    replace(path)


def test_a_reader_that_waited_for_a_rename_reads_the_new_folder(tmp_path, monkeypatch):
    path = prepared(tmp_path / "p")
    at_first, is_at = [os.rename], files._is_at

    def renamed_meanwhile(descriptor, folder):
        if at_first:
            at_first.pop()(path, tmp_path / "old")
            prepared(path, "new")
        return is_at(descriptor, folder)

    monkeypatch.setattr(files, "_is_at", renamed_meanwhile)
    assert Catalog.open(path).titles == ["new"] * 3
    assert not at_first


def test_without_locks_the_files_stay_and_the_change_is_noticed(tmp_path, no_locks):
    path = prepared(tmp_path / "p")
    timelines = Timelines.open(path)
    catalog = Catalog.of(timelines)
    replace(path)
    assert catalog.titles == ["old"] * 3
    assert timelines.user_ids(np.arange(1)) == ["u"]
    with pytest.raises(ValueError, match=r"manifest\.json: changed while this process was reading it"):
        timelines.check()
    with pytest.raises(ValueError, match="changed while"):
        Catalog.of(timelines)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_run(folder, ROWS)
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A trained run, and in the folder that it is in the prepared one, which it names by a relative path."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "run-0" / "config.json").read_text())
    record["config"]["data"]["prepared"] = "prepared"
    del record["sha256"]  # an edited record
    (tmp_path / "run-0" / "config.json").write_text(json.dumps(record))
    return tmp_path / "run-0"


def after(monkeypatch, module, name, act):
    """Let `act` happen when a function of a module has ended."""
    function = getattr(module, name)

    def wrapped(*arguments, **named):
        found = function(*arguments, **named)
        act()
        return found

    monkeypatch.setattr(module, name, wrapped)


def test_a_state_of_data_that_were_replaced_is_not_published(run, tmp_path, monkeypatch, no_locks):
    monkeypatch.chdir(tmp_path)
    snapshots = tmp_path / "snapshots"
    after(monkeypatch, daily, "build_state", lambda: replace(tmp_path / "prepared"))
    with pytest.raises(ValueError, match="changed while this process was reading it, so nothing was written"):
        publish(run, snapshots, date=day(TRAINED - 1))
    assert state.current(snapshots) is None
    assert not list(snapshots.glob("model_version=*/ds=*/run=*"))


def test_a_state_of_a_log_that_changed_is_not_published(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshots, log = tmp_path / "snapshots", write_log(tmp_path, ROWS, TRAINED)
    after(monkeypatch, daily, "write_events", lambda: write_log(tmp_path, ROWS[::2], TRAINED))
    with pytest.raises(ValueError, match=r"day-30\.parquet: changed while this process was reading it"):
        publish(run, snapshots, date=day(TRAINED), events=(log,))
    assert state.current(snapshots) is None


def test_an_evaluation_of_data_that_were_replaced_writes_nothing(run, tmp_path, monkeypatch, no_locks):
    monkeypatch.setattr(evaluate, "set_up_process", lambda: None)
    os.rename(tmp_path / "prepared", tmp_path / "moved")
    after(monkeypatch, evaluate, "baselines", lambda: replace(tmp_path / "moved"))
    values, config = evaluate.parse(["--workdir", str(run), "--data.prepared", str(tmp_path / "moved")])
    with pytest.raises(ValueError, match="changed while"):
        evaluate.evaluate_run(values.workdir, config=config)
    assert not (run / "results.json").exists()


def test_a_copy_of_data_that_were_replaced_is_not_kept(tmp_path, monkeypatch, no_locks):
    timelines = Timelines.open(write_world(tmp_path / "p"))
    vectors = np.eye(timelines.manifest.counts["items"], 8, dtype=np.float32)
    after(monkeypatch, prepared_copy, "facts_of", lambda: replace(tmp_path / "p"))
    with pytest.raises(ValueError, match="changed while"):
        write_copy(timelines, tmp_path / "out", vectors, {"method": "mine"})
    assert not (tmp_path / "out").exists()


def test_vectors_are_not_made_for_a_folder_that_is_read(tmp_path):
    timelines = Timelines.open(write_world(tmp_path / "p"))
    held = Timelines.open(prepared(tmp_path / "out"))
    with pytest.raises(ValueError, match="out: a process is reading it"):
        prepared_copy.check_out(timelines, held.path)


def test_a_worker_maps_the_folder_of_its_parent(tmp_path, no_locks):
    timelines = Timelines.open(prepared(tmp_path / "p"))
    sent = pickle.dumps(timelines)
    assert pickle.loads(sent).manifest == timelines.manifest
    write_prepared(tmp_path / "q", {"u": [(0, 1, 1, 7, 1.0)]}, 10, items=3)
    os.rename(tmp_path / "p", tmp_path / "before")
    os.rename(tmp_path / "q", tmp_path / "p")
    with pytest.raises(ValueError, match="replaced by other data"):
        pickle.loads(sent)


def test_a_run_finds_a_prepared_folder_that_was_moved(run, tmp_path, monkeypatch, capsys):
    trained_in = json.loads((run / "config.json").read_text())["working_folder"]
    assert trained_in == os.getcwd()
    os.rename(tmp_path / "prepared", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for verb, more in ((evaluate, []), (embed, ["--snapshots", "s", "--date", day(TRAINED - 1)])):
        monkeypatch.setattr(verb, "set_up_process", lambda: None)
        with pytest.raises(SystemExit) as ended:
            verb.main(["--workdir", str(run), *more])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"prepared (a path relative to {trained_in})" in said
        assert said.endswith("Name it with --data.prepared DIR\n")
    assert embed.main(["--workdir", str(run), *more, "--data.prepared", "moved"]) == 0
