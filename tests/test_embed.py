"""python -m pinnerformer_jax.embed as cron runs it: the command line, wrong input, a full disk, SIGKILL."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
from daily_run import ROWS, TRAINED, day, make_first_state, write_log

from pinnerformer_jax import embed, recommend
from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.lmdb_store import LmdbStore
from pinnerformer_jax.serving.manifest import read_manifest, verify_state
from pinnerformer_jax.serving.stores import open_store


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(workdir, snapshots with one state, the next day's log)."""
    folder = tmp_path_factory.mktemp("world")
    return *make_first_state(folder), write_log(folder, ROWS, TRAINED)


@pytest.fixture
def arguments(world, tmp_path, monkeypatch):
    """Of the next day's run, on a copy of the snapshots."""
    monkeypatch.setattr(embed, "set_up_process", lambda: None)
    workdir, snapshots, log = world
    shutil.copytree(snapshots, tmp_path / "snapshots")
    where = ["--snapshots", str(tmp_path / "snapshots")]
    return [*where, "--workdir", str(workdir), "--events", log, "--date", day(TRAINED)]


def names(root):
    """Every file and folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_day_and_back(arguments, tmp_path, capsys):
    root = tmp_path / "snapshots"
    first = state.current(root)
    assert embed.main(arguments) == 0
    output = capsys.readouterr().out
    second = state.current(root)
    counts = read_manifest(root, second).counts
    assert f"users: {counts.users.embedded_users} embedded, {counts.users.users} in the snapshot" in output
    assert f"events: {counts.events.new_events} new" in output
    assert "index: recall@10 1.0000 of exact search" in output
    assert output.endswith(f"published {root / second}\n")
    assert embed.main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{second}: made before, of the same inputs\n")
    assert embed.main([*arguments[:2], "--rollback"]) == 0
    assert capsys.readouterr().out == f"served: {first}\nno longer: {second}\n"
    assert embed.main([*arguments[:2], "--rollback", second]) == 0
    assert state.current(root) == second


def test_a_store_follows_the_states_and_a_failure_is_repaired(arguments, tmp_path, capsys, monkeypatch):
    root, url = tmp_path / "snapshots", f"lmdb:{tmp_path / 'store'}"
    place = open_store(url)
    first = state.current(root)

    def fail(*_):
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(LmdbStore, "replace", fail)
        with pytest.raises(SystemExit):
            embed.main([*arguments, "--store", url])
    second = state.current(root)
    assert f"{second} is published, but not in the store: no space; the next run" in capsys.readouterr().err
    assert embed.main([*arguments, "--store", url]) == 0
    assert "users written\n" in capsys.readouterr().out
    version = read_manifest(root, second).model_version
    assert (place.live(), place.contents(version).state) == (version, second)
    assert recommend.main(["--snapshots", str(root), "--user", "u001", "--store", url]) == 0
    assert "user u001: by inner product" in capsys.readouterr().out
    assert embed.main([*arguments[:2], "--rollback", "--store", url]) == 0
    assert place.contents(version).state == first
    (tmp_path / "gone.txt").write_text("u001")
    embed.main([*arguments, "--store", url, "--tombstones", str(tmp_path / "gone.txt")])
    assert place.of(version).get("u001") is None
    with pytest.raises(SystemExit):
        embed.main([*arguments, "--store", "mysql://x"])
    assert "--store: write lmdb:DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--workdir", "none"], "none/config.json: no run here"),
        (["--events", "none.csv"], "--events = 'none.csv': no such file"),
        (["--date", "2026"], "--date '2026': write a day"),
        (["--date", day(0)], "of a later day is served"),
        (["--keep", "0"], "--keep 0: at least 2"),
        (["--rollback", "model_version=x"], "write model_version=.../ds=.../run="),
        (["--rollback", "model_version=x/ds=y/run=z"], "this state is not there"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(arguments, tmp_path, capsys, others, message):
    before = names(tmp_path / "snapshots")
    with pytest.raises(SystemExit) as stopped:
        embed.main([*arguments, *others])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert names(tmp_path / "snapshots") == before


def test_a_workdir_is_needed(capsys):
    with pytest.raises(SystemExit):
        embed.main(["--snapshots", "x"])
    assert "--workdir DIR is needed" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [100, 700, 2_000, 3_000, 5_000, 10_000])
def test_a_disk_that_takes_no_more_is_an_error_and_loses_nothing(arguments, tmp_path, capsys, limit):
    """Files cannot grow beyond `limit` bytes, which stops the run at one file or another."""
    root = tmp_path / "snapshots"
    before = names(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SystemExit) as stopped:
            embed.main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
    left = [name for name in names(root) if name not in before]
    assert [name for name in left if "/" not in name or "/." in name or "run=" in name] == []
    assert embed.main(arguments) == 0
    verify_state(root, state.current(root))


KILLED_AT = """
import importlib, os, signal, sys
from pathlib import Path
from pinnerformer_jax import embed

module, name, half = sys.argv[1:4]
module = importlib.import_module(f"pinnerformer_jax.{module}")
function = getattr(module, name)

def killed(*arguments, **named):
    if half:  # of a file that was written, as if the process had been killed within the call
        function(*arguments, **named)
        file = next(value for value in arguments if isinstance(value, Path))
        os.truncate(file, os.path.getsize(file) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(module, name, killed)
sys.exit(embed.main(sys.argv[4:]))
"""
"""The verb, killed by SIGKILL where it calls a function, or half through writing a file."""

POINTS = [
    ("serving.daily", "write_events", ""),
    ("serving.event_store", "write_event_files", ""),
    ("serving.daily", "write_users", ""),
    ("serving.snapshot", "write_users", "half"),
    ("serving.daily", "write_index", ""),
    ("serving.daily", "write_manifest", ""),
    ("files", "sync", ""),  # all files are written
    ("serving.state", "publish_state", ""),  # the state is whole, the pointer names the one before
    ("serving.state", "prune", ""),  # the pointer names the new one
]


@pytest.mark.slow
def test_killed_at_any_step_the_old_state_is_served_and_the_next_run_completes(arguments, tmp_path):
    root = tmp_path / "snapshots"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    first = state.current(root)

    def run(*command):
        command = [sys.executable, *command]
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode

    shutil.copytree(root, tmp_path / "undisturbed")
    elsewhere = [part.replace(str(root), str(tmp_path / "undisturbed")) for part in arguments]
    assert run("-m", "pinnerformer_jax.embed", *elsewhere) == 0
    wanted = state.current(tmp_path / "undisturbed")
    for point in POINTS:
        assert run("-c", KILLED_AT, *point, *arguments) == -signal.SIGKILL, point
        served = wanted if point == POINTS[-1] else first
        assert state.current(root) == served, point
        verify_state(root, served)
    assert run("-m", "pinnerformer_jax.embed", *arguments) == 0
    assert state.current(root) == wanted
    assert names(root) == names(tmp_path / "undisturbed")
    for name in verify_state(root, wanted).files:
        written = (tmp_path / "undisturbed" / wanted / name).read_bytes()
        assert (root / wanted / name).read_bytes() == written
