"""A study as a user runs it: each variant trained once, stopped, resumed, the same in the end."""

import dataclasses
import json
import os
import signal

import jax
import pytest
import small_study
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from pinnerformer_jax import study as verb
from pinnerformer_jax.config import (
    DataConfig,
    EmbeddingConfig,
    EvaluationConfig,
    IndexConfig,
    ObjectiveConfig,
    PinSageConfig,
)
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.studies import cells, study
from pinnerformer_jax.studies.study_table import BASE, RECALL, Line, StudyTable, Variant
from pinnerformer_jax.training import loop


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(verb, "set_up_process", lambda: None)


def tables():
    sasrec, wide = Variant(objective={"name": "sasrec"}), Variant(model={"width": 64})
    return (
        StudyTable("one", "One", (Line("sasrec", sasrec), Line("base")), (RECALL,)),
        StudyTable(
            "two", "Two", (Line("base again"), Line("wide", wide)), (RECALL,), ("retrieval", "ranker")
        ),
    )


def test_a_variant_of_several_tables_is_one_cell_that_is_measured_for_all(tmp_path):
    base = study.Config(name="b")
    made = study.make_cells(study.Study(base, tables(), seeds=2), tmp_path, "data")
    assert [cell.name for cell in made] == [
        "one: sasrec, seed 0", "one: base, seed 0", "two: wide, seed 0",
        "one: sasrec, seed 1", "one: base, seed 1", "two: wide, seed 1",
    ]  # fmt: skip
    assert made[1].shown == [("one", "base", 0), ("two", "base again", 0)]
    assert made[1].parts == {"retrieval", "ranker"}
    assert made[0].parts == {"retrieval"}
    assert [cell.config.training.seed for cell in made] == [0, 0, 0, 1, 1, 1]
    assert len({cell.folder for cell in made}) == 6


def test_a_study_has_the_papers_loss():
    config = study.Config(objective=ObjectiveConfig(popularity_half_life_days=7.0, positions=3))
    assert cells.as_in_the_paper(config) == study.Config(objective=ObjectiveConfig(positions=3))


def test_what_decides_a_training_decides_its_cell():
    config = study.Config(data=DataConfig(prepared="here"))
    key = cells.cell_key(config, "data")
    moved = dataclasses.replace(
        config,
        data=DataConfig(prepared="there"),
        evaluation=EvaluationConfig(max_users=3),
        embedding=EmbeddingConfig(batch_size=3),
        index=IndexConfig(leaves=3),
        pinsage=PinSageConfig(steps=3),
        name="other",
    )
    assert cells.cell_key(moved, "data") == key
    assert cells.cell_key(config, "other data") != key
    assert cells.cell_key(Variant(model={"layers": 2}).of(config, 0), "data") != key
    assert cells.cell_key(BASE.of(config, 1), "data") != key


def test_other_evaluation_settings_measure_anew(tmp_path):
    cell = cells.Cell("c", study.Config(), tmp_path, {"retrieval", "staleness"})
    assert cells.missing(cell) == {"retrieval", "staleness"}
    record = {
        "parts": ["retrieval"],
        "numbers": {},
        "seconds": 1.0,
        "evaluation": to_dict(EvaluationConfig()),
    }
    (tmp_path / "measured.json").write_text(json.dumps(record))
    assert cells.missing(cell) == {"staleness"}
    old = record["evaluation"] | {"scann_leaves": 0, "scann_leaves_searched": 0, "scann_reorder": 200}
    (tmp_path / "measured.json").write_text(json.dumps(record | {"evaluation": old}))
    assert cells.missing(cell) == {"staleness"}
    (tmp_path / "measured.json").write_text(json.dumps(record | {"failed": "diverged"}))
    assert cells.missing(cell) == set()
    cell.config = study.Config(evaluation=EvaluationConfig(max_users=3))
    assert cells.missing(cell) == {"retrieval", "staleness"}
    (tmp_path / "measured.json").write_text("{")
    with pytest.raises(ValueError, match=r"measured\.json: not the record of a cell"):
        cells.missing(cell)


def test_tables_of_a_file(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("tables = ()")
    with pytest.raises(ValueError, match="must define `tables"):
        study.load_tables(str(file))
    file.write_text(small_study.STUDY)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(study.Config())))
    assert [table.name for table in study.load_tables(str(file))] == ["objectives", "again"]
    assert [table.name for table in study.load_tables(str(file), ["again"])] == ["again"]
    with pytest.raises(ValueError, match=r"--only other: no such table .* it has \['objectives', 'again'\]"):
        study.load_tables(str(file), ["other"])


def test_data_that_were_never_prepared_are_an_error(tmp_path, capsys):
    (tmp_path / "x.py").write_text(small_study.STUDY)
    config = study.Config(data=DataConfig(prepared=str(tmp_path / "nothing")))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    with pytest.raises(SystemExit, match="2"):
        verb.main(["--config", str(tmp_path / "x.py"), "--workdir", str(tmp_path / "work")])
    assert "run python -m pinnerformer_jax.ingest" in capsys.readouterr().err


@pytest.fixture
def compiled_once(tmp_path):
    """The same programs run again and again here."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path / "programs"), 0.0), strict=True):
        jax.config.update(name, value)
    reset_cache()
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)
    reset_cache()


def validation_losses(workdir):
    files = sorted(workdir.glob("cells/*/metrics.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if "validation_loss" in line]


def numbers(workdir):
    files = sorted(workdir.glob("cells/*/measured.json"))
    return {file.parent.name: json.loads(file.read_text())["numbers"] for file in files}


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_a_study_stopped_and_resumed_ends_as_one_that_was_not(tmp_path, monkeypatch, capsys):
    config = small_study.prepared(tmp_path, steps=6, checkpoint_every=3)
    objective = dataclasses.replace(config.objective, popularity_half_life_days=7.0)  # no study has it
    config = dataclasses.replace(config, objective=objective)
    (tmp_path / "x.py").write_text(small_study.STUDY)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))

    def run(workdir):
        arguments = ["--config", str(tmp_path / "x.py"), "--workdir", str(tmp_path / workdir), "--seeds", "2"]
        assert verb.main(arguments) == 0
        return capsys.readouterr().out

    whole = run("whole")
    assert "4 cells of 6 steps, 0 of them done" in whole
    trained = [json.loads(file.read_text()) for file in (tmp_path / "whole").rglob("config.json")]
    assert trained
    assert all(str(cell).count("'popularity_half_life_days': 0.0") == 1 for cell in trained)
    assert "objectives: dense, seed 1: recall@10 " in whole

    advance, calls = loop.MetricsLog.advance, 0

    def interrupt(log, step):
        nonlocal calls
        advance(log, step)
        calls += 1
        if calls == 10:  # in the second cell
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(loop.MetricsLog, "advance", interrupt)
        stopped = run("stopped")
    assert "the same command resumes" in stopped
    partial = json.loads((tmp_path / "stopped" / "study.json").read_text())
    assert partial["tables"][0]["lines"][1]["cells"][0]["values"] == [None, None]
    resumed = run("stopped")
    assert "4 cells of 6 steps, 1 of them done" in resumed
    assert "resuming after step" in "".join(
        file.read_text() for file in (tmp_path / "stopped" / "cells").glob("*/log.txt")
    )

    for part in (validation_losses, numbers):  # tells where they differ, if they do
        assert part(tmp_path / "whole") == part(tmp_path / "stopped")
    first, second = ((tmp_path / name / "study.json").read_bytes() for name in ("whole", "stopped"))
    assert first == second
    shown = json.loads(first)["tables"]
    assert all(0 <= v <= 1 for line in shown[0]["lines"] for cell in line["cells"] for v in cell["values"])
    assert shown[0]["lines"][1]["cells"][0]["values"] == shown[1]["lines"][0]["cells"][0]["values"]
    assert "of 2 comparisons" in shown[0]["sentence"]
    page = (tmp_path / "whole" / "report.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert "Two objectives" in page
    assert "4 of them done" in run("whole")  # and nothing is trained


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize(
    ("error", "done"), [(cells.TrainingError("step 2: diverged"), 2), (ValueError("full disk"), 1)]
)
def test_a_cell_that_fails_is_reported_and_the_study_goes_on(tmp_path, monkeypatch, capsys, error, done):
    config = small_study.prepared(tmp_path, steps=3, checkpoint_every=3)
    train = cells.train

    def diverge(loop_run, state):
        if loop_run.config.objective.name == "next_action":
            raise error
        return train(loop_run, state)

    monkeypatch.setattr(cells, "train", diverge)
    (tmp_path / "x.py").write_text(small_study.STUDY)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    arguments = ["--config", str(tmp_path / "x.py"), "--workdir", str(tmp_path / "w"), "--seeds", "1"]
    assert verb.main(arguments) == 1
    capsys.readouterr()
    found = json.loads((tmp_path / "w" / "study.json").read_text())
    assert str(error) in found["failed"]["objectives: next, seed 0"]
    next_line, dense = found["tables"][0]["lines"]
    assert next_line["cells"][0]["mean"] is None
    assert dense["cells"][0]["mean"] is not None
    verb.main(arguments)
    assert f"2 cells of 3 steps, {done} of them done" in capsys.readouterr().out
