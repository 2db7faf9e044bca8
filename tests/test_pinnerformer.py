"""The whole model: what it takes from the config, and what it gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.model.pinnerformer import PinnerFormer


def config(*, model=None, objective=None, **training) -> Config:
    base = small.config(**training)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, layers=1, **model or {}),
        objective=dataclasses.replace(base.objective, **objective or {}),
    )


def params(*args, **changes):
    return PinnerFormer(config(**changes), small.SIZES, *args).split()[1]


def differs(one, other) -> set[str]:
    """Parameters of the same name and other values."""
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in pairs
        if not np.array_equal(a, b)
    }


# Sums of the absolute values of each parameter at training.seed = 7, by its path in a checkpoint: figures of
# the version that built the model in pieces (training/state.py of 26 November 2026).
ONES = dict.fromkeys(
    ["user/blocks/0/attention_norm/scale", "user/blocks/0/ffn_norm/scale", "user/norm/scale"], 32.0
)
ZEROS = dict.fromkeys(
    [
        *(f"user/blocks/0/{name}/bias" for name in ("attention_norm", "ffn_norm", "out", "query", "value")),
        *(f"user/{name}/bias" for name in ("blocks/0/ffn/down", "blocks/0/ffn/up", "encoder", "norm")),
        *(f"{name}/bias" for name in ("item/down", "item/up", "user/head/down", "user/head/up")),
        "user/encoder/phase",
    ],
    0.0,
)
AT_RANDOM = ONES | ZEROS | {
    "item/down/kernel": 65.79971787,
    "item/up/kernel": 67.84387952,
    "log_temperature": 2.40794563,
    "user/blocks/0/ffn/down/kernel": 297.18169593,
    "user/blocks/0/ffn/up/kernel": 595.01991209,
    "user/blocks/0/key/kernel": 149.00728478,
    "user/blocks/0/out/kernel": 143.95935191,
    "user/blocks/0/query/kernel": 151.49450195,
    "user/blocks/0/value/kernel": 155.21502559,
    "user/encoder/action_table": 93.26515347,
    "user/encoder/kernel": 398.33249013,
    "user/encoder/surface_table": 80.95650649,
    "user/head/down/kernel": 101.57059724,
    "user/head/up/kernel": 295.53595138,
    "user/position_table": 10.65427262,
}  # fmt: skip
ALIGNED = AT_RANDOM | {
    "item/down/kernel": 75.20617124,
    "item/up/kernel": 65.97967784,
    "user/blocks/0/ffn/down/kernel": 0.0,
    "user/blocks/0/out/kernel": 96.0,
    "user/blocks/0/value/kernel": 32.0,
    "user/encoder/kernel": 53.86791794,
    "user/head/down/kernel": 124.31160067,
    "user/head/up/kernel": 289.75241114,
}


@pytest.mark.slow
@pytest.mark.parametrize(("aligned", "wanted"), [(False, AT_RANDOM), (True, ALIGNED)])
def test_parameters_of_a_seed_and_their_paths_in_checkpoints_have_not_changed(aligned, wanted):
    leaves = jax.tree.leaves_with_path(params(model={"aligned_start": aligned}, seed=7))
    sums = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(np.abs(np.float64(leaf)).sum())
        for path, leaf in leaves
    }
    assert sums == pytest.approx(wanted, rel=1e-5)


def test_the_seed_is_the_configs_or_the_one_given_even_traced():
    first, second = params(seed=1), params(seed=2)
    assert "item/up/kernel" in differs(first, second)
    assert differs(params(2, seed=1), second) == set()
    traced = jax.jit(lambda seed: params(seed, seed=1))(np.uint32(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), traced, second)


def test_a_model_made_by_hand_starts_aligned_if_the_config_says_so():
    moved = differs(params(model={"aligned_start": True}), params())
    assert {"item/up/kernel", "user/encoder/kernel", "user/head/down/kernel"} <= moved
    assert "log_temperature" not in moved


def test_the_temperature_starts_as_the_config_says_and_never_reaches_its_floor():
    made = PinnerFormer(config(objective={"initial_temperature": 0.3, "min_temperature": 0.2}), small.SIZES)
    assert float(made.temperature()) == pytest.approx(0.3)
    made.log_temperature[...] = jnp.asarray(-30.0)
    assert float(made.temperature()) == pytest.approx(0.2)


def test_users_are_embedded_as_of_their_newest_action():
    made, batch, tables = PinnerFormer(config(), small.SIZES), small.batch(), small.tables()
    newest = (batch.length - 1)[:, None]
    wanted = made.user(batch.history, batch.length, newest, tables.item_features)[:, 0]
    np.testing.assert_array_equal(made.embed_users(batch.history, batch.length, tables.item_features), wanted)


def test_split_and_merge_give_the_model_again():
    made, features = PinnerFormer(config(), small.SIZES), small.tables().item_features.values
    again = nnx.merge(*made.split())
    np.testing.assert_array_equal(again.embed_items(features), made.embed_items(features))
    assert float(again.temperature()) == float(made.temperature())
