import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training import state as training_state
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.step import make_train_step

CONFIG = Path(__file__).parent.parent / "configs" / "paper.py"


@pytest.mark.slow
def test_the_papers_size_compiles_and_takes_a_step_on_cpu():
    config = load_config(CONFIG)
    assert (config.model.layers, config.model.width, config.model.max_length) == (6, 768, 256)
    assert (config.objective.random_negatives, config.objective.in_batch_negatives) == (8192, 5000)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=2))

    rng = np.random.default_rng(0)
    features = rng.normal(size=(1000, 256)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    positive_table = np.zeros((small.ACTIONS, small.SURFACES), np.float32)
    tables = training_state.Tables(ItemTable(features), positive_table, np.uint32(0))
    mesh = make_mesh(1)
    graphdef, state = training_state.create(config, Sizes(256, small.ACTIONS, small.SURFACES))
    assert 40e6 < sum(leaf.size for leaf in jax.tree.leaves(state.params)) < 50e6
    step = make_train_step(config, graphdef, mesh, corpus=1000)
    state, tables = replicate(mesh, (state, tables))
    batch = shard_batch(mesh, small.batch(users=2, width=256, future=256))
    state, metrics = step(state, batch, tables)
    assert int(state.step) == 1
    assert float(metrics["pairs"]) > 0
    # An untrained model is about as good as guessing among pairs + random negatives.
    assert float(metrics["loss"]) == pytest.approx(np.log(8192), abs=2.5)
