import jax
import numpy as np
import small

from pinnerformer_jax.model import inference
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.training import state as training_state


def test_embeds_the_newest_action_and_every_item(monkeypatch):
    monkeypatch.setattr(inference, "ITEM_CHUNK", 25)  # 60 items: the last chunk is not full
    graphdef, state = training_state.create(small.config(), small.SIZES)
    tables, batch = small.tables(), jax.tree.map(np.asarray, small.batch())
    embedder = Embedder(graphdef, state.params, np.asarray(tables.item_features.values))
    model = training_state.build_model(small.config(), small.SIZES)

    newest = (batch.length - 1)[:, None]
    wanted = model.user(small.batch().history, small.batch().length, newest, tables.item_features)[:, 0]
    np.testing.assert_allclose(embedder.users(batch.history, batch.length), wanted, atol=1e-5)
    np.testing.assert_allclose(embedder.items(), model.items(tables.item_features.values), atol=1e-5)
