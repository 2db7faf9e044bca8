"""W&B and MLflow get the figures of metrics.jsonl, a resumed training goes on in the same run, and a tracker
that fails ends nothing."""

import json
import struct
import sys
import types

import pytest
import small_run

from pinnerformer_jax.train import fit
from pinnerformer_jax.training.trackers import FILE, Trackers


def curve(workdir):
    """Figures of metrics.jsonl: (step, name) -> value."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [(line.pop("step"), line) for line in lines if line.pop("sha256")]
    return {(step, name): value for step, line in lines for name, value in line.items()}


def config_of(tmp_path, **training):
    return small_run.config(small_run.write_data(tmp_path / "prepared"), **training)


class FakeRun:
    """What `wandb.init` gives."""

    def __init__(self, fails_at=None, **init):
        self.id, self.init, self.fails_at = init["id"] or "fresh", init, fails_at
        self.logged, self.exit_code = [], None

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("no network\nat all")
        self.logged += [(step, name) for name in values]

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """A W&B that keeps its runs; `fails_at` is the step at which the next run fails."""
    fake = types.SimpleNamespace(runs=[], fails_at=None, Settings=dict)

    def init(**settings):
        fake.runs.append(FakeRun(fake.fails_at, **settings))
        return fake.runs[-1]

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_no_setting_no_tracker(tmp_path, wandb):
    with Trackers(config_of(tmp_path), tmp_path) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert wandb.runs == []
    assert not (tmp_path / FILE).exists()


def test_a_resumed_training_goes_on_in_the_same_run(tmp_path, wandb):
    config, workdir = config_of(tmp_path, wandb="shop"), tmp_path / "run"
    workdir.mkdir()
    for wanted in (None, "fresh"):
        with Trackers(config, workdir) as trackers:
            trackers.log(2, {"loss": 1.0})
        run = wandb.runs[-1]
        assert (run.init["id"], run.init["project"], run.init["name"]) == (wanted, "shop", "run")
        assert (run.logged, run.exit_code) == ([(2, "loss")], 0)
    with pytest.raises(KeyError), Trackers(config, workdir):
        raise KeyError
    assert wandb.runs[-1].exit_code == 1


@pytest.mark.slow
def test_a_tracker_that_fails_is_left_out_with_one_warning(tmp_path, wandb, capsys):
    wandb.fails_at = 4
    config, workdir = config_of(tmp_path, wandb="shop"), tmp_path / "run"
    assert int(fit(config, workdir).step) == 12
    (run,) = wandb.runs
    assert {step for step, _ in run.logged} == {2}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert told == ["warning: training.wandb is left out, training goes on: no network"]


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with Trackers(config_of(tmp_path, mlflow="shop"), tmp_path) as trackers:
        trackers.log(1, {"loss": 1.0})
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("warning: training.mlflow is left out")
    assert told.endswith("pip install 'pinnerformer_jax[mlflow]'")


def stopped_and_resumed(config, workdir, monkeypatch):
    """Train to a stop after the first checkpoint, and then to the end."""
    from pinnerformer_jax.training import loop

    advance = loop.MetricsLog.advance

    def interrupt(log, step):
        advance(log, step)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop.MetricsLog, "advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(config, workdir)
    assert int(fit(config, workdir).step) == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the library
def test_mlflow_has_the_curve_of_the_run_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config, workdir = config_of(tmp_path, mlflow="shop"), tmp_path / "run"
    stopped_and_resumed(config, workdir, monkeypatch)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert run.info.run_id == json.loads((workdir / FILE).read_text())["mlflow"]
    assert (run.info.status, run.data.params["model.width"]) == ("FINISHED", "16")
    found = [
        ((one.step, name), one.value)
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    ]
    wanted = curve(workdir)
    assert len(found) == len(wanted)
    same = {key: value for key, value in dict(found).items() if "per_second" not in key[1]}
    assert same.keys() <= wanted.keys()
    for key, value in same.items():
        if key[1] != "input_wait_share":
            assert value == pytest.approx(wanted[key])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_the_curve_of_the_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config, workdir = config_of(tmp_path, wandb="shop"), tmp_path / "run"
    stopped_and_resumed(config, workdir, monkeypatch)
    run_id = json.loads((workdir / FILE).read_text())["wandb"]
    files = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"))
    assert [file.name for file in files] == [f"run-{run_id}.wandb"] * 2
    assert wandb.run is None
    wanted, found = curve(workdir), {}
    for file in files:
        found |= history_of(file)
    assert wanted.keys() == found.keys()
    for (step, name), value in wanted.items():
        if name in ("loss", "validation_loss", "gradient_norm"):
            assert found[step, name] == pytest.approx(value)


def history_of(file):
    """(step, name) -> value of W&B's own file: records in the format of LevelDB's log, blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    raw, at, found, parts = file.read_bytes(), 7, {}, b""
    while at + 7 <= len(raw):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
        length, kind = struct.unpack_from("<HB", raw, at + 4)
        parts += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, parts = wandb_internal_pb2.Record.FromString(parts), b""
            values = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            step = values.get("_step", record.history.step.num)
            found |= {(step, name): value for name, value in values.items() if not name.startswith("_")}
    return found
