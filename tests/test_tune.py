"""A search of settings: it looks at validation users alone, resumes, prunes, and says what mattered."""

import dataclasses
import json

import pytest
import small_run

from pinnerformer_jax import tune as verb
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.studies import tune as module
from pinnerformer_jax.studies.tune import PAGE, REPORT, space, tune, with_settings

optuna = pytest.importorskip("optuna", reason="the extra tune is not installed")


LOWER = "from pinnerformer_jax.studies import tune; tune.FEWEST = 1"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 1)
    return small_run.config(small_run.write_data(tmp_path / "prepared"), steps=4, checkpoint_every=2)


def test_the_start_is_within_the_space(config):
    for name, (low, high, _) in space(config).items():
        section, _, key = name.partition(".")
        assert low < high
        assert low <= getattr(getattr(config, section), key) <= high
    changed = with_settings(config, {"model.layers": 3, "training.learning_rate": 0.5})
    assert (changed.model.layers, changed.training.learning_rate) == (3, 0.5)
    assert dataclasses.replace(changed, model=config.model, training=config.training) == config


@pytest.mark.slow
def test_a_search_goes_on_after_a_kill(config, tmp_path, monkeypatch):
    trained, stop_at = [], 1

    def train(run, state):
        trained.append(run.config)
        if len(trained) - 1 == stop_at:
            raise KeyboardInterrupt  # as a kill: the trial stays open
        return right(run, state)

    right = module.train
    monkeypatch.setattr(module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        tune(config, tmp_path / "tune", 3, 60)
    found = tune(config, tmp_path / "tune", 3, 60)
    assert trained[0] == config  # the first trial has the config's own settings
    assert trained[1] == trained[2]  # the second was asked for again
    assert len(trained) == 4
    assert found == json.loads((tmp_path / "tune" / REPORT).read_text())
    assert (len(found["trials"]), found["pruned"], found["failed"]) == (3, 0, 1)
    values = [trial["gain"] for trial in found["trials"]]
    assert values == sorted(values, reverse=True)
    assert tune(config, tmp_path / "tune", 3, 60) == found  # nothing is left to do
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, width=32))
    with pytest.raises(ValueError, match="the search of another config"):
        tune(other, tmp_path / "tune", 3, 60)


@pytest.mark.slow
def test_two_searches_of_one_workdir_share_the_trials(config, tmp_path, monkeypatch):
    trained = []

    def train(run, state):
        trained.append(run.workdir)
        if len(trained) == 1:  # while the first trial is trained, another process searches
            monkeypatch.setattr(module, "train", lambda *of: (trained.append(of[0].workdir), right(*of))[1])
            other = tune(config, tmp_path / "tune", 3, 60)
            assert [trial["number"] for trial in other["trials"]] in ([1, 2], [2, 1])
        return right(run, state)

    right = module.train
    monkeypatch.setattr(module, "train", train)
    found = tune(config, tmp_path / "tune", 3, 60)
    assert (len(found["trials"]), found["failed"]) == (3, 0)
    assert len(set(trained)) == len(trained) == 3
    page = (tmp_path / "tune" / PAGE).read_text()
    assert all(f"trial 0: {name}" in page for name in space(config))


@pytest.mark.slow
def test_workers_are_processes(config, tmp_path, capfd):
    file = tmp_path / "small.py"
    values = (
        f"from pinnerformer_jax.config_files import from_dict\n\nconfig = from_dict({to_dict(config)!r})\n"
    )
    file.write_text(values.replace("from_dict\n\n", f"from_dict\n{LOWER}\n"))
    where = ["--config", str(file), "--workdir", str(tmp_path / "tune")]
    assert verb.main([*where, "--trials", "3", "--workers", "2"]) == 0
    found = json.loads((tmp_path / "tune" / REPORT).read_text())
    assert len(found["trials"]) + found["pruned"] == 3
    assert "3 finished" in capfd.readouterr().out


@pytest.mark.slow
def test_a_trial_below_the_others_is_pruned(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEFORE_PRUNING", 1)
    gains = iter([0.4, 0.5, 0.6, 0.1])
    monkeypatch.setattr(module.ValidationGain, "__call__", lambda *_: (next(gains), 0.01))
    found = tune(config, tmp_path / "tune", 2, 60)
    assert [trial["gain"] for trial in found["trials"]] == [0.6]
    assert found["pruned"] == 1


def test_too_few_validation_users_are_an_error(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 10_000)
    with pytest.raises(ValueError, match="validation users at earlier splits"):
        tune(config, tmp_path / "tune", 2, 60)
