"""The identity part of the embeddings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import nnx

from pinnerformer_jax.config import ModelConfig
from pinnerformer_jax.model.identity import identities
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.pinnerformer import PinnerFormer
from pinnerformer_jax.objective import frequency
from pinnerformer_jax.training.training_loss import training_loss

KNOWN = 40
SIZES = small.SIZES._replace(identities=KNOWN)
CONTENT, IDENTITY = 8, 64


def config(**changes):
    made = small.config()
    changes = {"layers": 1, "output_dim": CONTENT + IDENTITY, "identity_dim": IDENTITY, **changes}
    return dataclasses.replace(made, model=dataclasses.replace(made.model, **changes))


def vectors(ids, **hidden):
    return np.asarray(identities(jnp.asarray(ids), 256, KNOWN, **hidden))


def test_identities_are_unit_vectors_that_are_nearly_orthogonal():
    found = vectors(np.arange(KNOWN))
    products = found @ found.T
    np.testing.assert_allclose(np.diag(products), 1, atol=1e-6)
    assert np.abs(products - np.eye(KNOWN)).max() < 5 / 256**0.5
    assert identities(jnp.arange(3), 37, KNOWN).shape == (3, 37)


def test_an_item_that_came_later_has_none():
    assert not vectors([KNOWN, 10**9]).any()
    assert vectors([KNOWN - 1]).any()


def test_a_share_is_hidden_and_another_one_in_each_step():
    ids = np.arange(KNOWN)
    first, second = (
        vectors(np.tile(ids, (2, 1)), hidden_share=0.4, key=jax.random.key(k)).any(axis=-1) for k in range(2)
    )
    np.testing.assert_array_equal(first[0], first[1])  # the same wherever an item occurs
    assert 0.3 < first.mean() < 0.9
    assert (first != second).any()


def test_without_identities_the_model_is_the_papers():
    paper = PinnerFormer(config(identity_dim=0), SIZES)
    _, params = paper.split()
    assert "item_identity" not in params
    assert "copy" not in params["user"]
    features = small.tables().item_features.values
    np.testing.assert_array_equal(
        paper.embed_items(features), paper.embed_items(features, jnp.arange(small.ITEMS), jax.random.key(0))
    )


@pytest.fixture(scope="module")
def model():
    return PinnerFormer(config(), SIZES)


def test_an_unknown_item_falls_back_to_its_content(model):
    features = small.tables().item_features.values
    items = np.asarray(model.embed_items(features, jnp.arange(small.ITEMS)))
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)
    assert not items[KNOWN:, CONTENT:].any()
    assert items[:KNOWN, CONTENT:].any(axis=1).all()
    np.testing.assert_allclose(np.linalg.norm(items[KNOWN:, :CONTENT], axis=1), 1, atol=1e-5)
    content = items[:, :CONTENT] / np.linalg.norm(items[:, :CONTENT], axis=1, keepdims=True)
    without_numbers = model.embed_items(features)
    np.testing.assert_allclose(without_numbers[:, :CONTENT], content, atol=1e-5)


def test_at_the_start_an_own_item_is_nearer_than_its_twin(model):
    """Two items of the same vector; the user had one of them. Content cannot tell, identity can."""
    values = np.asarray(small.tables().item_features.values).copy()
    values[5] = values[4]
    batch = small.batch()
    history = batch.history._replace(item=jnp.full_like(batch.history.item, 4))
    user = np.asarray(nnx.jit(type(model).embed_users)(model, history, batch.length, jnp.asarray(values)))
    own, twin = np.asarray(model.embed_items(jnp.asarray(values[[4, 5]]), jnp.array([4, 5])))
    assert (user @ own > user @ twin + 0.2).all()


def test_positions_see_no_later_item(model):
    batch, tables = small.batch(), small.tables()
    position = jnp.full((16, 1), 3)
    later = batch.history._replace(item=batch.history.item.at[:, 4:].set(7))
    before, after = (
        nnx.jit(type(model.user).__call__)(model.user, *history, position, tables.item_features)
        for history in ((batch.history, batch.length), (later, batch.length))
    )
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_the_embedder_gives_items_their_numbers(model):
    graphdef, params = model.split()
    features = np.asarray(small.tables().item_features.values)
    embedder = Embedder(graphdef, params, features)
    wanted = model.embed_items(jnp.asarray(features), jnp.arange(small.ITEMS))
    np.testing.assert_allclose(embedder.items(), wanted, atol=1e-5)
    np.testing.assert_allclose(embedder.items(first=30), wanted[30:], atol=1e-5)


@pytest.mark.slow
def test_the_loss_trains_the_weights_of_the_history(model):
    graphdef, params = model.split()
    settings = config()

    def loss_of(params):
        sketch = frequency.empty_sketch(settings.objective)
        return training_loss(
            nnx.merge(graphdef, params), settings, small.batch(), small.tables(), sketch, jax.random.key(1),
            corpus=KNOWN, training=True,
        )[0]  # fmt: skip

    gradient = jax.jit(jax.grad(loss_of))(params)
    copy = gradient["user"]["copy"]
    for part in (copy["query"], copy["share"], gradient["item_identity"]):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part)) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"identity_dim": 256}, r"model.identity_dim = 256: 0, or less than output_dim = 256"),
        ({"identity_dropout": 1.0}, r"model.identity_dropout = 1.0: in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)
