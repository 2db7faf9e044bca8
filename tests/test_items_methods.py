"""Nothing after t reaches a vector, by any method; new items have one."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.items.content import Scale
from pinnerformer_jax.items.engagement import co_engaged
from pinnerformer_jax.items.methods import make_vectors, open_sources, pinsage, walked_graph
from pinnerformer_jax.items.pinsage import PinSage
from tests.items_world import ITEMS, TRAINED, config, write_world


def sources(path, **world):
    write_world(path, **world)
    return open_sources(config(path), Timelines.open(path))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return sources(tmp_path_factory.mktemp("plain") / "p")


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """The same log up to t; after it, a marker in everybody's events and in the new item's title."""
    title = "blue scarf zzmarker zzmarker"
    return sources(tmp_path_factory.mktemp("marked") / "p", marked=True, new_title=title)


def test_the_marker_is_not_in_the_graph(plain, marked):
    assert not marked.graph.connected[TRAINED]
    for one, other in zip(plain.graph, marked.graph, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_marker_is_in_no_pair(plain, marked):
    pairs = co_engaged(marked.events, 256, 28)
    assert TRAINED not in (*pairs.first, *pairs.second)
    np.testing.assert_array_equal(pairs, co_engaged(plain.events, 256, 28))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pinsage", "pinsage_svd", "svd", "text"])
def test_the_marker_moves_no_vector(plain, marked, method):
    one, other = (make_vectors(method, of, lambda _: None)[0] for of in (plain, marked))
    assert one.shape == (ITEMS, 16)
    np.testing.assert_array_equal(one[:TRAINED], other[:TRAINED])
    # Nor the new item's own, to rounding: words that training never saw weigh nothing.
    np.testing.assert_allclose(one[TRAINED], other[TRAINED], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pinsage", "pinsage_svd", "svd", "text"])
def test_a_new_item_lies_among_its_kin(plain, method):
    vectors, _ = make_vectors(method, plain, lambda _: None)
    near = np.argsort(-(vectors[:TRAINED] @ vectors[TRAINED]))[:5]
    assert (near % 4 == 1).all()


def test_an_item_born_later_gets_a_vector_from_the_old_model(plain, tmp_path):
    vectors, trained = pinsage(plain, lambda _: None)
    later = sources(tmp_path / "p", more_titles=("retro garden clock", "walnut tin cake"))
    given, same = pinsage(later, lambda _: None, trained)
    assert same is trained
    np.testing.assert_allclose(given[:ITEMS], vectors, atol=1e-5)  # the old ones stay where they were
    near = np.argsort(-(vectors[:TRAINED] @ given[ITEMS + 1]))[:5]
    assert (near % 4 == 2).all()


def test_what_all_have_in_common_is_left_out(plain):
    vectors, trained = pinsage(plain, lambda _: None)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.linalg.norm(vectors[:TRAINED].mean(axis=0)) < 0.5 * np.linalg.norm(trained.whitening.centre)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pinsage", "pinsage_svd"])
def test_whitened_vectors_fill_more_axes(plain, method):
    def whitened(of, share):
        settings = dataclasses.replace(of.config.pinsage, whitening=share)
        return of._replace(config=dataclasses.replace(of.config, pinsage=settings))

    def axes(vectors):  # how many there would be, were all equally wide
        variance = np.linalg.eigvalsh(np.cov(vectors[:TRAINED], rowvar=False))
        return variance.sum() ** 2 / (variance**2).sum()

    vectors = [make_vectors(method, whitened(plain, share), lambda _: None)[0] for share in (0, 0.5, 1)]
    assert axes(vectors[0]) < axes(vectors[1]) < axes(vectors[2])
    assert axes(vectors[2]) > 1.5 * axes(vectors[0])


def test_sessions_stand_beside_the_users(plain):
    config = dataclasses.replace(
        plain.config, pinsage=dataclasses.replace(plain.config.pinsage, session_hours=0.5)
    )
    graph = walked_graph(plain._replace(config=config))  # events are an hour apart: a session each
    users, events = len(plain.graph.user_offsets) - 1, len(plain.events.item)
    assert len(graph.user_offsets) - 1 == users + events
    assert len(graph.item_users) == len(plain.graph.item_users) + events
    np.testing.assert_array_equal(graph.connected, plain.graph.connected)
    assert walked_graph(plain) is plain.graph


def test_a_model_of_other_numbers_is_refused(plain):
    _, trained = pinsage(plain, lambda _: None)
    other = trained._replace(scale=Scale(np.zeros(1), np.ones(1)))
    with pytest.raises(ValueError, match="the model was trained on 1 of them"):
        pinsage(plain, lambda _: None, other)


def test_a_model_of_other_content_is_refused(plain):
    _, trained = pinsage(plain, lambda _: None)
    other = trained._replace(model=PinSage(5, 16, 16, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="16 numbers of content, the model reads 5"):
        pinsage(plain, lambda _: None, other)
