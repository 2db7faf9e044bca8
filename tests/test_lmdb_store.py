"""Files: other processes, killed writers, full disks."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from states import make_state

from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.lmdb_store import LmdbStore
from pinnerformer_jax.serving.store import key, publish_users


@pytest.fixture
def place(tmp_path):
    return LmdbStore(tmp_path / "store")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_old_folders_go_with_the_next_publishing(place, tmp_path):
    for version in "abc":
        publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}, version))
    assert [name for name in names(tmp_path / "store") if name.startswith("model=")] == ["model=b", "model=c"]
    publish_users(place, tmp_path, make_state(tmp_path, 2, {"u1": 2}, "c"))
    left = names(tmp_path / "store")
    assert [name for name in left if name.startswith("model=")] == ["model=c"]
    assert len(left) == 3  # the link, the environment and live
    assert place.contents("b") is None


def test_a_reader_that_reads_while_its_version_goes_is_told(place, tmp_path):
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}, "a"))
    vectors = LmdbStore(tmp_path / "store").of("a")
    for version in "bc":
        publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}, version))
    with pytest.raises(ValueError, match="no vectors of model version a, live is c"):
        vectors.get("u1")


def _read(folder, ready, stop, queue):
    vectors = LmdbStore(folder).of("a")
    seen = set()
    while not stop.is_set():
        many, known = vectors.get_many(["u1", "u2"])
        seen.add((*many[:, 0].tolist(), known.all()))
        ready.set()
    queue.put(seen)


def test_another_process_sees_all_of_a_change_or_nothing(place, tmp_path):
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 1}))
    context = multiprocessing.get_context("spawn")
    ready, stop, queue = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=_read, args=(tmp_path / "store", ready, stop, queue))
    process.start()
    assert ready.wait(60)
    for day in range(2, 20):  # the file grows beyond what the reader knew
        users = {f"v{number}": number / 64 for number in range(day * 50)}
        publish_users(place, tmp_path, make_state(tmp_path, day, users | {"u1": day, "u2": day}))
        time.sleep(0.01)
    stop.set()
    seen = queue.get(timeout=60)
    process.join()
    assert {(1, 1, True), (19, 19, True)} & seen
    assert seen <= {(day, day, True) for day in range(1, 20)}


@pytest.mark.slow
def test_threads_read_through_replacements(place, tmp_path):
    """Environments that go are closed by the last thread that reads in them."""
    roots = [tmp_path / f"root{number}" for number in range(12)]
    states = [make_state(root, 1, {"u1": 1}) for root in roots]
    publish_users(place, roots[0], states[0])
    stop, failures = threading.Event(), []

    def read():
        vectors = place.of("a")
        while not stop.is_set():
            try:
                if vectors.get("u1")[0] != 1:
                    failures.append("another vector")
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for root, name in zip(roots[1:], states[1:], strict=True):
        place.replace(place.contents("a"), iter([]))  # nobody is there any more ...
        place.replace(place.contents("a"), iter([]))
        publish_users(place, root, name)
    stop.set()
    for thread in threads:
        thread.join()
    assert not [failure for failure in failures if "NoneType" not in str(failure)]


def test_a_child_of_a_fork_opens_its_own(place, tmp_path):
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
    assert place.of("a").get("u1")[0] == 1
    code = f"""
import os, sys
from pinnerformer_jax.serving.lmdb_store import LmdbStore
vectors = LmdbStore({str(tmp_path / "store")!r}).of("a")
assert vectors.get("u1")[0] == 1
child = os.fork()
if child == 0:
    os._exit(0 if vectors.get("u1")[0] == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("version", ["a", "b"])
def test_a_disk_that_takes_no_more_is_an_error_and_loses_nothing(place, tmp_path, version):
    """Files cannot grow beyond a size; publishing a change, or another model."""
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
    users = {f"v{number}": 0.5 for number in range(20_000)}
    name = make_state(tmp_path, 2, users | {"u1": 2}, version)
    before = names(tmp_path / "store")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
    try:
        with pytest.raises(OSError, match=r"is published, but not in the store: lmdb:.*is the disk full\?"):
            publish_users(place, tmp_path, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path / "store") == before
    assert (place.live(), place.of("a").get("u1")[0]) == ("a", 1)
    publish_users(place, tmp_path, name)
    assert (place.live(), place.of(version).get("u1")[0]) == (version, 2)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from pinnerformer_jax.serving import lmdb_store, store

place, root, state, function, calls = sys.argv[1:]
store.CHUNK = 1000
owner = lmdb_store.LmdbStore if hasattr(lmdb_store.LmdbStore, function) else lmdb_store
whole, left = getattr(owner, function), int(calls)

def counted(*arguments, **named):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **named)

setattr(owner, function, counted)
store.publish_users(lmdb_store.LmdbStore(Path(place)), Path(root), state)
"""
"""Publishing, killed by SIGKILL at the n-th call of a function."""

REPLACING = [
    ("_put", 2), ("_put", 5), ("_append_missing_pages", 1), ("write_json", 1),
    ("_link", 1), ("_link", 2), ("_sweep", 2),
]  # fmt: skip
UPDATING = [("sync", 1), ("_put", 1), ("_encode", 1), ("_append_missing_pages", 1), ("write_json", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "points"), [("b", REPLACING), ("a", UPDATING)])
def test_killed_at_any_step_the_old_version_is_served_and_the_next_run_completes(
    place, tmp_path, version, points
):
    """By another model, or by a day of the same one."""
    users = {f"v{number}": 0.5 for number in range(5000)}
    first = make_state(tmp_path, 1, users | {"u1": 1})
    name = make_state(tmp_path, 2, users | {"u1": 2}, version)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for point, calls in points:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        publish_users(place, tmp_path, first)
        command = [sys.executable, "-c", KILLED_AT, tmp_path / "store", tmp_path, name, point, str(calls)]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
        served = place.of("a")
        assert served.get_many(list(users))[1].all()
        committed = version == "a" and point in ("_append_missing_pages", "write_json")
        assert served.get("u1")[0] == (2 if committed else 1)
        publish_users(place, tmp_path, name)
        assert place.live() == version
        assert place.of(version).get("u1")[0] == 2
        assert place.of(version).get_many(list(users))[1].all()
        linked = {os.readlink(link) for link in (tmp_path / "store").glob("model=*")}
        assert linked == {path.name for path in (tmp_path / "store").glob("*-*")}
        assert len(list((tmp_path / "store").glob("*-*/checksum.json"))) == len(linked)


def test_nothing_there(place, tmp_path):
    assert place.live() is None
    place.delete([key("u1")])
    assert not (tmp_path / "store").exists()
    with pytest.raises(ValueError, match="no vectors of model version a, live is None; publish with"):
        place.of("a")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match="pip install lmdb"):
        LmdbStore(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_reader_need_not_write_the_data(place, tmp_path):
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1}))
    [file] = (tmp_path / "store").glob("a-*/data.mdb")
    file.chmod(0o400)
    code = (
        "from pinnerformer_jax.serving.stores import open_store; "
        f"print(open_store({str(place)!r}).of('a').get('u1')[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "1.0\n"
    assert state.current(tmp_path)


def damage(file, kind, share):
    size = file.stat().st_size
    place = int(size * share)
    if kind in ("cut", "emptied"):
        os.truncate(file, place if kind == "cut" else 0)
    elif kind == "removed":
        file.unlink()
    else:
        with open(file, "r+b") as data:
            data.seek(place)
            [byte] = data.read(1)
            data.seek(place)
            data.write(bytes(4096) if kind == "zeros" else bytes([byte ^ 4]))


DAMAGES = [
    *[("flipped", share) for share in (0.0, 0.001, 0.2, 0.5, 0.8, 0.99)],
    *[("cut", share) for share in (0.001, 0.01, 0.3, 0.7, 0.999)],
    *[("zeros", share) for share in (0.0, 0.3, 0.6)],
    ("emptied", 0),
    ("removed", 0),
]

SEEN = """
import os, sys
from pathlib import Path
from test_lmdb_store import damage, DAMAGES
from pinnerformer_jax.serving import lmdb_store
from pinnerformer_jax.serving.store import DamagedError, key, publish_users

root, name, old_format = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
store = lmdb_store.LmdbStore(root / "store")
users = [f"v{k}" for k in range(5000)]

def check(kind, share):
    damage(next((root / "store").glob("a-*/data.mdb")), kind, share)
    if old_format:
        next((root / "store").glob("a-*/checksum.json")).unlink()
    try:
        vectors, known = store.of("a").get_many(users)
        if not old_format or not known.all() or (vectors[:, 0] != 0.5).any():
            return "read"
    except DamagedError as error:
        if "publish again with" not in str(error) or "data.mdb" not in str(error) and not old_format:
            return str(error)
    if publish_users(store, root, name) != f"{store}: all 5,000 users written":
        return "not replaced"
    vectors, known = store.of("a").get_many(users)
    return "" if known.all() and (vectors[:, 0] == 0.5).all() else "other vectors"

for at in DAMAGES:
    if old_format and at[0] != "cut":
        continue
    child = os.fork()
    if not child:
        print(at, check(*at) or "right", flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        print(at, "ended with", status)
"""
"""Each damage in a process of its own, which may die of it."""


@pytest.mark.parametrize("without_checksum", ["0", "1"])
def test_a_damaged_file_is_an_error_and_the_next_publishing_replaces_it(place, tmp_path, without_checksum):
    name = make_state(tmp_path, 1, {f"v{number}": 0.5 for number in range(5000)})
    publish_users(place, tmp_path, name)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(__file__)])}
    command = [sys.executable, "-c", SEEN, tmp_path, name, without_checksum]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    wrong = [line for line in done.stdout.splitlines() if not line.endswith(" right")]
    assert done.stdout
    assert not wrong


def test_pages_that_are_missing_at_the_end_of_a_whole_file_are_no_damage(place, tmp_path):
    """LMDB does not write free pages; a store of an older version may lack them."""
    users = {f"v{number}": number / 64 for number in range(3000)}
    publish_users(place, tmp_path, make_state(tmp_path, 1, users))
    for number in range(1, 8):  # users leave and others come
        fewer = {user: value + number for user, value in users.items() if hash((int(user[1:]), number)) % 3}
        publish_users(place, tmp_path, make_state(tmp_path, number + 1, fewer))
        assert LmdbStore(tmp_path / "store").of("a").get_many(list(fewer))[1].all()
        [file] = (tmp_path / "store").glob("a-*/data.mdb")
        assert file.stat().st_size % 4096 == 0


def test_an_update_that_fails_leaves_no_checksum_and_the_next_replaces(place, tmp_path, monkeypatch):
    publish_users(place, tmp_path, make_state(tmp_path, 1, {"u1": 1, "u2": 1}))
    second = make_state(tmp_path, 2, {"u1": 2, "u2": 1})

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pinnerformer_jax.serving.lmdb_store._put", fail)
        with pytest.raises(KeyboardInterrupt):
            publish_users(place, tmp_path, second)
    assert not list((tmp_path / "store").glob("*/checksum.json"))
    assert LmdbStore(tmp_path / "store").of("a").get("u1")[0] == 1
    assert publish_users(place, tmp_path, second) == f"{place}: all 2 users written"
