import jax
import numpy as np
import small_run

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.embedding import embed_users
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training.state import create


def test_users_are_embedded_each_for_itself(tmp_path):
    prepared = small_run.write_data(tmp_path / "prepared")
    config, timelines = small_run.config(prepared), Timelines.open(prepared)
    graphdef, state = create(config, Sizes(8, 3, 3))
    embedder = Embedder(graphdef, state.params, Catalog.open(prepared).features)
    users = np.arange(1, 14, 2)
    by_three = embed_users(embedder, timelines, users, 8, 3)
    alone = [embed_users(embedder, timelines, users[k : k + 1], 8, 1)[0] for k in range(7)]
    np.testing.assert_allclose(by_three, alone, atol=1e-5)
    assert jax.numpy.unique(by_three.round(4), axis=0).shape[0] == 7
