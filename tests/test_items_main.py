"""The verb, end to end."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.items.__main__ import main
from tests.items_world import ITEMS, write_world

CONFIG = """
from pathlib import Path
from tests.items_world import config as make
config = make(Path({prepared!r}))
"""


@pytest.fixture
def arguments(tmp_path):
    prepared = write_world(tmp_path / "p")
    (tmp_path / "config.py").write_text(CONFIG.format(prepared=str(prepared)))
    return ["--config", str(tmp_path / "config.py")]


@pytest.mark.slow
def test_a_folder_with_vectors_and_a_table(tmp_path, arguments, capsys):
    main([*arguments, "--method", "pinsage", "--evaluate", "--pinsage.steps", "10"])
    said = capsys.readouterr().out
    assert f"{ITEMS} of {ITEMS} items have a vector" in said
    for method in ("random", "text", "svd", "pinsage", "item-kNN", "pair counts"):
        assert method in said
    assert Catalog.open(tmp_path / "p_pinsage").features.shape == (ITEMS, 16)
    made_by = json.loads((tmp_path / "p_pinsage/catalog/vectors.json").read_text())
    assert (made_by["method"], made_by["settings"]["steps"]) == ("pinsage", 10)
    Timelines.open(tmp_path / "p_pinsage", verify=True)


def test_an_earlier_model_is_reused(tmp_path, arguments, capsys):
    first = [*arguments, "--method", "pinsage", "--pinsage.steps", "2"]
    main(first)
    assert "step 2: loss" in capsys.readouterr().out
    main(
        [
            *first,
            "--pinsage.steps",
            "9",
            "--reuse",
            str(tmp_path / "p_pinsage"),
            "--out",
            str(tmp_path / "again"),
        ]
    )
    assert "loss" not in capsys.readouterr().out
    made_by = json.loads((tmp_path / "again/catalog/vectors.json").read_text())
    assert (made_by["settings"]["steps"], len(made_by["model"])) == (2, 64)
    one, other = (Catalog.open(tmp_path / name).features for name in ("p_pinsage", "again"))
    assert one.tobytes() == other.tobytes()


def test_other_settings_than_those_of_the_ingest(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--method", "text", "--items.built-dim", "20"])
    assert end.value.code == 2
    assert "items.built_dim: 16 -> 20" in capsys.readouterr().err


def test_only_pinsage_has_a_model_to_reuse(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--method", "text", "--reuse", str(tmp_path)])
    assert "--method text has none" in capsys.readouterr().err


def test_the_folder_itself_is_no_place_to_write(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--method", "text", "--out", str(tmp_path / "p")])
    assert "name another" in capsys.readouterr().err


def test_a_second_run_into_the_same_folder_is_refused_at_once(tmp_path, arguments, capsys, monkeypatch):
    def no_work(*_, **__):
        raise AssertionError("it works")

    with folder_in_use(tmp_path / "p_text"), monkeypatch.context() as patched:
        patched.setattr("pinnerformer_jax.items.__main__.make_vectors", no_work)
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--method", "text"])
    assert end.value.code == 2
    assert "p_text: another process is writing it" in capsys.readouterr().err
    main([*arguments, "--method", "text"])
    assert Catalog.open(tmp_path / "p_text").features.shape[0] == ITEMS


@contextlib.contextmanager
def folder_in_use(path):
    """By another process, which runs this verb."""
    code = """
import sys
from pathlib import Path
from pinnerformer_jax.items import __main__ as verb
def wait(*_, **__):
    print("at work", flush=True)
    sys.stdin.read()
    raise ValueError("ended")
verb.make_vectors = wait
verb.main(sys.argv[1:])
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "--config", str(path.with_name("config.py")), "--method", "text"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline() == "at work\n", process.stderr.read()
        yield
        process.stdin.close()
        assert process.wait(30) == 2
    assert not list(path.parent.glob(".p_text*"))
