"""From a log to recommendations in one command, which goes on where it was stopped."""

import dataclasses
import os
import signal

import pytest
import small_run
from logs import given, make_events, write_parquet

from pinnerformer_jax import run as verb
from pinnerformer_jax.serving.manifest import read_manifest
from pinnerformer_jax.serving.state import current
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.training import loop
from pinnerformer_jax.training.final import read_origin

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


@pytest.fixture
def config(tmp_path):
    log = given(tmp_path, evaluation_share=0.3, validation_share=0.2)
    tiny = small_run.config(tmp_path / "prepared")
    write_parquet(tmp_path / "log.parquet", make_events(users=80))
    return dataclasses.replace(tiny, data=log.data, items=log.items)


def test_a_stopped_run_goes_on_and_repeats_nothing(config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "recs.csv"
    arguments = config, tmp_path / "run", tmp_path / "snapshots", out, 3
    with monkeypatch.context() as patch:
        usual = loop.training_batches

        def stopping(*args, **keywords):
            for k, batch in enumerate(usual(*args, **keywords)):
                if k == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        patch.setattr(loop, "training_batches", stopping)
        assert verb.run(*arguments) == verb.STOPPED
    assert "stopped after step" in (said := capsys.readouterr().out)
    assert "3 of 5" not in said
    assert not out.exists()

    assert verb.run(*arguments) == 0
    said = capsys.readouterr().out
    assert "resuming after step" in said
    lines = dict(line.split(": ", 1) for line in said[said.index("log: ") :].splitlines())
    assert lines["users"] == "80"
    assert lines["recommendations"].startswith(f"{out}: 80 users, 240 recommendations")
    assert lines["report"].startswith("file:///")
    first = out.read_bytes()
    assert len(first.splitlines()) == 241

    results = tmp_path / "run" / "results.json"
    written = results.stat().st_mtime_ns
    assert verb.run(*arguments) == 0
    assert "is of the same checkpoint, data and settings" in capsys.readouterr().out
    assert results.stat().st_mtime_ns == written
    assert [line.rsplit(b",", 1)[0] for line in out.read_bytes().splitlines()] == [
        line.rsplit(b",", 1)[0] for line in first.splitlines()
    ]  # the last column names the state

    write_parquet(tmp_path / "log.parquet", make_events(users=90))  # another log
    with pytest.raises(ValueError, match="holds a run that this one does not continue"):
        verb.run(*arguments)


def test_bad_arguments_are_found_before_any_work(config, tmp_path):
    for out, k, said in (
        ("recs.xls", 3, r"--out .*recs\.xls: the name"),
        ("recs.csv", 0, "-k 0: at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            verb.run(config, tmp_path / "run", tmp_path / "snapshots", tmp_path / out, k)
    assert not (tmp_path / "prepared").exists()


def test_a_final_run_is_served_and_the_other_is_evaluated(config, tmp_path, capsys):
    out, workdir = tmp_path / "recs.csv", tmp_path / "run"
    assert verb.run(config, workdir, tmp_path / "snapshots", out, 3, final=True) == 0
    said = capsys.readouterr().out
    assert "6 of 6: recommend" in said
    lines = dict(line.split(": ", 1) for line in said[said.index("log: ") :].splitlines())
    assert lines["evaluated"] == str(workdir)
    assert lines["served"].startswith(f"{workdir}-final, trained on all users and up to the last day")
    name = current(tmp_path / "snapshots")
    final = TrainedModel.load(tmp_path / "run-final", "best")
    assert read_manifest(tmp_path / "snapshots", name).model_version == final.version
    assert final.version != TrainedModel.load(workdir, "best").version
    assert read_origin(tmp_path / "run-final").evaluated == str(workdir)
