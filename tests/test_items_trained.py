"""A model comes back as it was."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pinnerformer_jax.ingestion.item_vectors import TextBasis
from pinnerformer_jax.items.content import Scale
from pinnerformer_jax.items.pinsage import ItemGraph, PinSage
from pinnerformer_jax.items.trained import Trained, load, save
from pinnerformer_jax.items.whitening import Whitening


@pytest.mark.slow
@pytest.mark.parametrize("basis", [None, TextBasis(np.array([3, 8], np.int32), np.ones((2, 4), np.float32))])
def test_there_and_back(tmp_path, basis):
    model = PinSage(4, 6, 3, rngs=nnx.Rngs(5))
    spread, scale = Whitening(np.arange(3.0), np.eye(3)), Scale(np.array([2.0]), np.array([3.0]))
    save(tmp_path / "model.npz", Trained(model, spread, basis, scale))
    again = load(tmp_path / "model.npz")
    save(tmp_path / "again.npz", again)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "model.npz").read_bytes()
    graph = ItemGraph(jnp.ones((2, 4)), jnp.asarray([[1], [0]]), jnp.ones((2, 1)))
    items = jnp.asarray([0, 1])
    np.testing.assert_array_equal(again.model(graph, items), model(graph, items))
    assert again.whitening.centre.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(again.whitening.axes, np.eye(3))
    assert (again.scale.mean.tolist(), again.scale.deviation.tolist()) == ([2], [3])
    if basis is None:
        assert again.basis is None
    else:
        assert [a.tolist() for a in again.basis] == [b.tolist() for b in basis]


def test_something_else_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--reuse takes a folder"):
        load(tmp_path / "model.npz")
    np.savez(tmp_path / "model.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="not a model"):
        load(tmp_path / "model.npz")
    (tmp_path / "model.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="not a model"):
        load(tmp_path / "model.npz")
