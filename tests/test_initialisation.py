"""Aligned initialisation: what the towers compute before training."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from pinnerformer_jax.model.initialisation import set_linear
from pinnerformer_jax.model.layers import MLP
from pinnerformer_jax.model.pinnerformer import PinnerFormer

WAVES = ("action", "surface", "duration", "absolute_time", "relative_time", "position")


def build(**changes):
    config = small.config()
    return PinnerFormer(
        dataclasses.replace(config, model=dataclasses.replace(config.model, aligned_start=True, **changes)),
        small.SIZES,
    )


@pytest.mark.parametrize("hidden", [10, 11])
def test_an_mlp_starts_as_the_linear_map(hidden):
    rngs, rng = nnx.Rngs(0), np.random.default_rng(0)
    mlp = MLP(5, hidden, 7, jnp.dtype("float32"), rngs=rngs)
    kernel, inputs = rng.standard_normal((5, 7), np.float32), rng.standard_normal((20, 5), np.float32)
    set_linear(mlp, jnp.asarray(kernel), rngs)
    np.testing.assert_allclose(mlp(jnp.asarray(inputs)), inputs @ kernel, atol=1e-5)


def test_items_start_as_their_vectors_turned():
    features = np.asarray(small.tables().item_features.values)
    items = np.asarray(build().embed_items(jnp.asarray(features)))
    np.testing.assert_allclose(items @ items.T, features @ features.T, atol=1e-5)


def test_a_user_starts_near_the_mean_of_the_own_items():
    model, batch, tables = build(drop_features=WAVES), small.batch(), small.tables()
    features = np.asarray(tables.item_features.values)
    users = np.asarray(model.embed_users(batch.history, batch.length, tables.item_features))
    scores = users @ np.asarray(model.embed_items(jnp.asarray(features))).T
    means = [features[row[:n]].mean(axis=0) for row, n in zip(batch.history.item, batch.length, strict=True)]
    wanted = np.stack(means) @ features.T
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores, wanted, strict=True)]
    assert np.mean(correlation) > 0.8  # a single user's depends on the draws: 0.1 to 0.8 at the least


def test_a_model_without_item_features_starts_too():
    model, batch, tables = build(drop_features=("item",)), small.batch(), small.tables()
    assert np.isfinite(model.embed_users(batch.history, batch.length, tables.item_features)).all()
