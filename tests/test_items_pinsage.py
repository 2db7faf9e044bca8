"""One convolution by hand on six items, and minibatches against the whole graph."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pinnerformer_jax.items.fit import embed_all, without_edges
from pinnerformer_jax.items.pinsage import Convolution, ItemGraph, PinSage


def six() -> ItemGraph:
    """Content of two numbers; item 5 has no neighbour."""
    features = [[1, 0], [0, 2], [1, 1], [-3, 1], [2, -1], [1, 2]]
    neighbour = [[1, 2], [0, 3], [0, 1], [4, 1], [3, 0], [0, 0]]
    weight = [[0.75, 0.25], [0.5, 0.5], [0.5, 0.5], [1, 0], [0.6, 0.4], [0, 0]]
    return ItemGraph(
        jnp.asarray(features, jnp.float32),
        jnp.asarray(neighbour, jnp.int32),
        jnp.asarray(weight, jnp.float32),
    )


def test_pooling_and_one_convolution_by_hand():
    graph, convolution = six(), Convolution(2, 2, rngs=nnx.Rngs(0))
    convolution.message.kernel[...] = jnp.asarray([[1.0, -1.0], [1.0, 0.0]])
    convolution.message.bias[...] = jnp.asarray([0.0, 1.0])
    convolution.combine.kernel[...] = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    convolution.combine.bias[...] = jnp.asarray([0.5, 0.0])
    messages = convolution.messages(graph.features)
    # ReLU([f0 + f1, 1 - f0])
    np.testing.assert_array_equal(messages, [[1, 0], [2, 1], [2, 0], [0, 4], [1, 0], [3, 0]])
    out = convolution(graph.features, messages, graph.neighbour, graph.weight)
    # pooled: 0.75 [2, 1] + 0.25 [2, 0] = [2, 0.75], then [.5, 2], [1.5, .5], [1, 0], [.4, 2.4], [0, 0]
    # ReLU([f0 + pooled0 + 0.5, f1 - pooled1]), to unit length
    by_hand = np.array([[3.5, 0], [1, 0], [3, 0.5], [0, 1], [2.9, 0], [1.5, 2]])
    np.testing.assert_allclose(out, by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True), atol=1e-6)


def random_graph(items=200, neighbours=4, seed=0) -> ItemGraph:
    rng = np.random.default_rng(seed)
    weight = rng.random((items, neighbours), np.float32)
    weight[::7] = 0
    return ItemGraph(
        jnp.asarray(rng.standard_normal((items, 6), np.float32)),
        jnp.asarray(rng.integers(0, items, (items, neighbours)), jnp.int32),
        jnp.asarray(weight),
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch", [3, 150])
def test_a_minibatch_is_a_part_of_the_whole(batch):
    graph, model = random_graph(), PinSage(6, 16, 8, rngs=nnx.Rngs(0))
    items = jnp.asarray(np.random.default_rng(1).integers(0, 200, batch), jnp.int32)
    np.testing.assert_allclose(model(graph, items), embed_all(model, graph)[items], atol=1e-5)


def test_hidden_edges_are_hidden_of_their_item_alone():
    graph, model = six(), PinSage(2, 16, 8, rngs=nnx.Rngs(0))
    alone = embed_all(model, without_edges(graph, jnp.asarray([True, False, False, False, False, False])))
    no_edges = embed_all(model, graph._replace(weight=jnp.zeros_like(graph.weight)))
    np.testing.assert_allclose(alone[0], no_edges[0], atol=1e-6)
    assert np.abs(alone[1] - no_edges[1]).max() > 1e-3
