"""Files and folders that are whole or absent."""

import json
import os
import shutil

import pytest

from pinnerformer_jax.files import atomic_folder, atomic_path, sha256, write_json, write_text


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
