import pytest

from pinnerformer_jax.bench.overrides import override
from pinnerformer_jax.config import Config


def test_settings_of_every_kind():
    config = override(
        Config(),
        [
            "--model.compute-dtype", "bfloat16", "--training.batch_size=64", "--training.learning-rate",
            "2e-3", "--model.strictly-causal", "true", "--data.prepared", "some/where",
        ],
    )  # fmt: skip
    assert config.model.compute_dtype == "bfloat16"
    assert config.training.batch_size == 64
    assert config.training.learning_rate == 2e-3
    assert config.model.strictly_causal is True
    assert config.data.prepared == "some/where"
    assert override(Config(), []) == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.wdith", "3"], "--model.wdith: no such flag or setting"),
        (["--seconsd", "3"], "--seconsd: no such flag or setting"),
        (["stray"], "stray: no such flag or setting"),
        (["--model.width", "wide"], "--model.width 'wide': must be of type int"),
        (["--model.width"], "--model.width '': must be of type int"),
        (["--model.width", "30", "--model.heads", "7"], "model.width = 30: must be a multiple of heads"),
        (["--model.compute-dtype", "int8"], "must be one of float32, bfloat16"),
        (["--model.strictly-causal", "yes"], "must be one of true, false"),
        (["--data.events", "a.parquet"], "--data.events: set it in the config file"),
    ],
)
def test_errors_name_the_setting(arguments, message):
    with pytest.raises(ValueError, match=message):
        override(Config(), arguments)
