"""Files and folders that are whole or absent."""

import json
import os
import shutil

import pytest

from pinnerformer_jax.files import (
    atomic_folder,
    atomic_path,
    check_contents,
    check_files,
    facts_of,
    folder_lock,
    sha256,
    write_json,
    write_text,
)


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), atomic_path(path) as temporary:
        shutil.copy(tmp_path / "none", temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_text(tmp_path):
    write_json(tmp_path / "a.json", {"name": "café"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "café"}
    assert "café" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_checksum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


def fill(folder, text):
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text(text)


def test_a_folder_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "new" / "prepared"
    for text in ("first", "second"):
        with atomic_folder(path) as temporary:
            assert temporary.parent == path.parent
            fill(temporary, text)
        assert (path / "inner" / "a.txt").read_text() == text
        assert list(path.parent.iterdir()) == [path]


def test_a_failed_run_leaves_the_old_folder(tmp_path):
    path = tmp_path / "prepared"
    with atomic_folder(path) as temporary:
        fill(temporary, "old")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as temporary:
        shutil.copy(tmp_path / "none", temporary / "a.txt")
    assert (path / "inner" / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_removed(tmp_path):
    path = tmp_path / "prepared"
    (tmp_path / ".prepared.tmp").mkdir()
    (tmp_path / ".prepared.tmp" / "stale").touch()
    with atomic_folder(path) as temporary:
        fill(temporary, "new")
    assert [file.name for file in path.iterdir()] == ["inner"]


def test_a_link_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "mine").touch()
    (tmp_path / ".prepared.tmp").symlink_to(tmp_path / "victim")
    refused = pytest.raises(ValueError, match=r"\.prepared\.tmp is a link, .* remove the link")
    with refused, atomic_folder(tmp_path / "prepared"):
        pass
    (tmp_path / ".prepared.tmp").unlink()
    (tmp_path / ".prepared.tmp").mkdir()
    (tmp_path / ".prepared.tmp" / "link").symlink_to(tmp_path / "victim")
    with atomic_folder(tmp_path / "prepared") as folder:
        assert not list(folder.iterdir())
    assert [file.name for file in (tmp_path / "victim").iterdir()] == ["mine"]


def test_one_writer_holds_a_folder(tmp_path):
    with (
        folder_lock(tmp_path / "a" / "run"),
        pytest.raises(ValueError, match="another run is writing here"),
        folder_lock(tmp_path / "a" / "run"),
    ):
        pass
    with folder_lock(tmp_path / "a" / "run"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file: name a folder"), folder_lock(tmp_path / "file"):
        pass


def test_a_folder_that_a_killed_run_had_moved_aside_comes_back(tmp_path):
    path = tmp_path / "prepared"
    with atomic_folder(path) as temporary:
        fill(temporary, "old")
    path.rename(tmp_path / ".prepared.old")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as temporary:
        (temporary / "none").read_text()
    assert (path / "inner" / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_folder_stays_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "prepared"
    with atomic_folder(path) as temporary:
        fill(temporary, "old")

    def rename(source, target, real=os.rename):
        if source == temporary:
            raise OSError("no")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="no"), atomic_folder(path):
        pass
    assert (path / "inner" / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_folder_do_not_mix(tmp_path):
    path = tmp_path / "prepared"
    with atomic_folder(path) as temporary:
        fill(temporary, "first")
        with pytest.raises(ValueError, match="another process is writing it"), atomic_folder(path):
            pass
    assert (path / "inner" / "a.txt").read_text() == "first"


@pytest.fixture
def recorded(tmp_path):
    """(folder with two files, what a manifest says of them)"""
    fill(tmp_path, "inside")
    (tmp_path / "b.txt").write_text("b")
    return tmp_path, facts_of(tmp_path)


def test_facts_of_all_files_or_of_some(recorded):
    folder, facts = recorded
    assert list(facts) == ["b.txt", "inner/a.txt"]
    assert facts["b.txt"] == {"bytes": 1, "sha256": sha256(folder / "b.txt")}
    assert facts_of(folder, ["b.txt"]) == {"b.txt": facts["b.txt"]}
    check_files(folder, facts, "copy it again")


@pytest.mark.parametrize(("text", "said"), [(None, "missing or not 6"), ("insides", "missing or not 6")])
def test_a_file_that_is_missing_or_short_is_named(recorded, text, said):
    folder, facts = recorded
    (folder / "inner" / "a.txt").unlink()
    if text:
        (folder / "inner" / "a.txt").write_text(text)
    for contents in (True, False):
        with pytest.raises(ValueError, match=rf"inner/a\.txt: {said} .*; copy it again"):
            check_files(folder, facts, "copy it again", contents=contents)


def test_an_altered_file_is_named_if_contents_are_read(recorded):
    folder, facts = recorded
    (folder / "inner" / "a.txt").write_text("INSIDE")
    check_files(folder, facts, "copy it again", contents=False)
    with pytest.raises(ValueError, match=r"inner/a\.txt: altered, its checksum is not the recorded"):
        check_files(folder, facts, "copy it again")


def test_the_beginning_of_a_checksum_is_enough(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    check_contents(tmp_path / "a", "ba7816bf", "copy it again")
    with pytest.raises(ValueError, match="altered"):
        check_contents(tmp_path / "a", "ba7816b0", "copy it again")
