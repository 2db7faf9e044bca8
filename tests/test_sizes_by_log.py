import dataclasses

import numpy as np
import pytest
import small_run
from small_run import write_data

from pinnerformer_jax import ingest, train
from pinnerformer_jax.config import Config, DataConfig, ItemsConfig, ModelConfig, TrainingConfig
from pinnerformer_jax.config.by_log import LogSize, fill, settings_by_log, shares_by_log
from pinnerformer_jax.data.timelines import read_manifest
from pinnerformer_jax.training import sizes
from pinnerformer_jax.training.inputs import open_training_data
from pinnerformer_jax.training.run_record import check_ingested, read_record
from pinnerformer_jax.training.sizes import sized_by_log

SHOP = LogSize(users=700, events=35_000, items=900, item_dim=256)
LARGE = LogSize(users=400_000_000, events=100_000_000_000, items=1_000_000_000, item_dim=256)


def config_of(log):
    return Config(**{name: fill(getattr(Config(), name), of) for name, of in settings_by_log(log).items()})


@pytest.mark.parametrize("users", [2, 40, 700, 6_000, 90_000, 10**6, 4 * 10**8])
@pytest.mark.parametrize("items", [3, 900, 10**9])
@pytest.mark.parametrize(("per_user", "item_dim"), [(2, 37), (60, 131), (10_000, 1024)])
def test_the_rule_gives_a_valid_config_for_any_log(users, items, per_user, item_dim):
    sized = config_of(LogSize(users, users * per_user, items, item_dim))
    assert sized.model.max_length in (16, 64, 256)
    assert sized.training.steps >= sized.training.checkpoint_every >= 1
    assert sum(shares_by_log(users).values()) < 0.31


def test_a_large_log_has_the_papers_model():
    sized, paper = config_of(LARGE).model, ModelConfig()
    for name in ("layers", "width", "heads", "max_length", "output_dim", "item_hidden", "dropout"):
        assert getattr(sized, name) == getattr(paper, name), name


def test_a_small_log_has_a_small_model_and_a_short_training():
    sized = config_of(SHOP)
    assert (sized.model.layers, sized.model.width, sized.model.max_length) == (2, 256, 64)
    assert (sized.training.batch_size, sized.training.steps) == (32, 525)
    assert sized.model.dropout > 0
    assert shares_by_log(1_000)["validation_share"] > DataConfig().validation_share


@pytest.mark.parametrize(
    ("drift", "users", "half_life"),
    [(0.33, 700, 7.0), (0.06, 700, 0.0), (np.nan, 700, 0.0), (0.33, 10**6, 0.0)],
)
def test_popularity_is_left_to_the_priors_where_it_drifts(drift, users, half_life):
    sized = config_of(SHOP._replace(popularity_drift=drift, users=users))
    assert sized.objective.popularity_half_life_days == half_life


def test_a_setting_that_is_not_at_its_default_stays():
    assert fill(ModelConfig(layers=3), {"layers": 2, "width": 128}) == ModelConfig(layers=3, width=128)


def small_and_asking(tmp_path):
    """A config with all sizes but for dropout and weight decay, and the same with `sizes_by_log`."""
    small = small_run.config(write_data(tmp_path / "data"), steps=2, checkpoint_every=2, weight_decay=0.01)
    return small, dataclasses.replace(small, sizes_by_log=True)


def test_the_sizes_are_those_of_the_prepared_log(tmp_path, capsys):
    small, asked = small_and_asking(tmp_path)
    with pytest.raises(ValueError, match="sizes_by_log = True: give the config that"):
        open_training_data(asked)
    sized = sized_by_log(asked)
    assert "sizes by the log: 32 training users with" in capsys.readouterr().out
    assert sized.model == dataclasses.replace(small.model, dropout=0.3)
    assert sized_by_log(sized) is sized


def test_popularity_that_drifts_stays_out_of_a_loss_without_a_softmax(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "popularity_drift", lambda *_: 0.33)
    _, asked = small_and_asking(tmp_path)

    def half_life(**changes):
        changed = dataclasses.replace(asked, objective=dataclasses.replace(asked.objective, **changes))
        return sized_by_log(changed).objective.popularity_half_life_days

    assert half_life() == 7.0
    assert half_life(popularity_half_life_days=3.0) == 3.0
    assert half_life(loss="binary_cross_entropy") == 0.0


@pytest.mark.slow
def test_training_uses_the_sizes_and_keeps_them_in_the_record(tmp_path):
    small, asked = small_and_asking(tmp_path)
    state = train.fit(asked, tmp_path / "run")
    kept = read_record(tmp_path / "run").config
    assert kept == sized_by_log(asked)
    assert not kept.sizes_by_log
    assert kept.model == dataclasses.replace(small.model, dropout=0.3)  # what is given stays
    assert kept.training.weight_decay == 0.1  # given, at its default
    assert int(state.step) == 2
    assert int(train.fit(asked, tmp_path / "run").step) == 2  # the same call resumes


def test_ingest_chooses_the_shares_by_the_log_and_training_takes_them_from_there(tmp_path, capsys):
    log = tmp_path / "events.csv"
    rng = np.random.default_rng(0)
    rows = [
        f"u{user},i{rng.integers(50)},2026-{1 + k // 20:02d}-{1 + k % 20:02d}T{rng.integers(24):02d}:00:00"
        for user in range(200)
        for k in range(40)
    ]
    log.write_text("user,item,time\n" + "\n".join(rows) + "\n")
    data = DataConfig(events=(str(log),), prepared=str(tmp_path / "prepared"), time_unit="timestamp")
    config = Config(sizes_by_log=True, data=data, items=ItemsConfig(built_dim=8))
    ingest.prepare(config)
    assert "sizes by the log, 200 users: data.evaluation_share 0.2" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "prepared")
    assert manifest.config["data"]["validation_share"] == 0.1
    assert manifest.counts["users"]["evaluation"] > 20
    check_ingested(manifest, config)
    assert sized_by_log(config).data.evaluation_share == 0.2
    given = dataclasses.replace(config, data=dataclasses.replace(data, evaluation_share=0.3))
    with pytest.raises(ValueError, match=r"data.evaluation_share: 0.2 -> 0.3"):
        check_ingested(manifest, given)


def test_without_sizes_by_log_the_config_is_as_given(tmp_path):
    config = Config(training=TrainingConfig(steps=7), data=DataConfig(prepared=str(tmp_path / "none")))
    assert sized_by_log(config) is config
