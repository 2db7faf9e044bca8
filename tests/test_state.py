"""States: pointer, checksums, lock, rollback, deletions."""

import multiprocessing

import pytest

from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.manifest import Manifest, is_whole, verify_state, write_manifest
from pinnerformer_jax.serving.state import state_name


def make_state(root, date, base=None, version="model"):
    name = state_name(version, date, "made")
    folder = root / name
    (folder / "index").mkdir(parents=True)
    (folder / "users.parquet").write_bytes(b"users of " + date.encode())
    (folder / "index" / "part").write_bytes(b"index")
    write_manifest(
        folder,
        Manifest(
            date=date, model_version=version, config="c", data="d", base=base, inputs={}, max_length=4, dim=2,
            dtype="float16",
        ),
    )  # fmt: skip
    state.publish_state(root, name)
    return name


@pytest.fixture
def three(tmp_path):
    """(root, names of three states, each built on the one before)."""
    names = [None]
    for date in ("2026-01-01", "2026-01-02", "2026-01-03"):
        names.append(make_state(tmp_path, date, names[-1]))
    return tmp_path, names[1:]


def test_nothing_is_published_at_first(tmp_path):
    assert state.current(tmp_path) is None
    assert state.base_for(tmp_path, "2026-01-01", again=True) is None
    with pytest.raises(FileNotFoundError, match="CURRENT: nothing was published here"):
        state.rollback(tmp_path)


def test_the_pointer_names_a_state_that_verifies(three):
    root, names = three
    assert state.current(root) == names[2] == "model_version=model/ds=2026-01-03/run=made"
    manifest = verify_state(root, names[2])
    assert manifest.base == names[1]
    assert manifest.files.keys() == {"users.parquet", "index/part"}
    assert not list(root.glob(".*"))


@pytest.mark.parametrize("file", ["users.parquet", "index/part"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "missing or not"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "altered, its checksum is not the recorded one"),
        (None, "missing or not"),
    ],
)
def test_damage_is_found_and_named(three, file, damage, message):
    root, names = three
    path = root / names[0] / file
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        verify_state(root, names[0])
    assert not is_whole(root, names[0])
    assert is_whole(root, names[1])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 99}', '{"format": 1, "dat": 2}'])
def test_a_damaged_manifest_is_named(three, text):
    root, names = three
    (root / names[2] / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json: not the manifest of a state"):
        verify_state(root, names[2])
    assert state.rollback(root, names[0]) == (names[2], names[0])  # a way out


def test_a_day_is_built_on_the_newest_earlier_one(three):
    root, names = three
    assert state.base_for(root, "2026-01-09", again=True) == names[2]
    assert state.base_for(root, "2026-01-03", again=True) == names[1]
    assert state.base_for(root, "2026-01-03", again=False) == names[2]
    for again in (True, False):
        with pytest.raises(ValueError, match=f"--date 2026-01-02: {names[2]} of a later day is served"):
            state.base_for(root, "2026-01-02", again=again)


def test_roll_back_again_and_again(three):
    root, names = three
    assert state.rollback(root) == (names[2], names[1])
    assert state.rollback(root) == (names[1], names[0])
    with pytest.raises(ValueError, match="there is nothing to roll back to"):
        state.rollback(root)
    assert state.current(root) == names[0]
    assert state.rollback(root, names[2]) == (names[0], names[2])


def test_a_state_may_be_typed_in_several_ways(three):
    root, names = three
    for text in (f"{names[0]}/", f"./{names[0]}", f"{root / names[0]}/"):
        assert state.rollback(root, text)[1] == state.current(root) == names[0]
    with pytest.raises(ValueError, match=r"--rollback ds=5: write model_version="):
        state.rollback(root, "ds=5")
    assert state.current(root) == names[0]


def test_no_roll_back_to_a_damaged_state(three):
    root, names = three
    (root / names[1] / "users.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"users.parquet: missing or not 19 bytes long"):
        state.rollback(root)
    assert state.current(root) == names[2]


def test_nothing_goes_while_a_manifest_of_the_chain_is_damaged(three):
    root, names = three
    (root / names[1] / "manifest.json").write_text("{")
    state.prune(root, 3)
    assert [(root / name).is_dir() for name in names] == [True, True, True]
    state.prune(root, 1)  # no further than the served one
    assert [(root / name).is_dir() for name in names] == [False, False, True]


def test_prune_keeps_the_chain(three):
    root, names = three
    state.rollback(root)
    state.prune(root, 2)
    assert [is_whole(root, name) for name in names] == [True, True, False]
    state.prune(root, 1)
    assert [path.name for path in root.glob("model_version=model/*")] == ["ds=2026-01-02"]
    with pytest.raises(FileNotFoundError, match=r"manifest.json: this state is not there \(any more\)"):
        state.rollback(root)


def hold(root, ready, done):
    with state.write_lock(root):
        ready.set()
        done.wait(60)


def test_the_second_writer_is_refused(three):
    root, _ = three
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(root, ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ValueError, match="another run is writing here"), state.write_lock(root):
        pass
    with pytest.raises(ValueError, match="another run is writing here"):
        state.rollback(root)
    done.set()
    other.join()
    with state.write_lock(root):
        pass


def test_what_was_left_half_built_is_removed(three):
    root, names = three
    left = root / "model_version=model" / "ds=2026-01-04" / ".run=made.tmp"
    left.mkdir(parents=True)
    (left / "users.parquet").touch()
    (root / ".CURRENT.7.tmp").touch()
    with state.write_lock(root):
        assert not left.exists()
        assert not (root / ".CURRENT.7.tmp").exists()
    assert all(is_whole(root, name) for name in names)


def test_a_day_ends_at_midnight():
    assert state.day_end("2026-12-31").isoformat() == "2027-01-01T00:00:00+00:00"


@pytest.mark.parametrize("text", ["31.12.2026", "20261231", "2026-12-1", "today"])
def test_a_day_is_written_in_one_way(text):
    with pytest.raises(ValueError, match=f"--date '{text}': write a day such as"):
        state.day_end(text)


@pytest.mark.parametrize(
    "name", ["../../elsewhere/st", "/abs/model_version=a/ds=b/run=c", "model_version=a/ds=../run=c", ""]
)
def test_a_pointer_to_what_is_no_state_is_refused(tmp_path, name):
    (tmp_path / "CURRENT").write_text(f"{name}\n")
    with pytest.raises(ValueError, match=r"CURRENT: names .* no state of this folder"):
        state.current(tmp_path)
