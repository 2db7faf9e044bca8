"""What a past event carries of a retrieved item's score, against data that lack the event."""

import numpy as np
import pytest
import small_run
from prepared import write_prepared

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, Timelines
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.evaluation.reasons import score_drops
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.training.state import create

T, ITEMS = small_run.SPLIT, 12
PRIORS = Priors(own_weight=0.7, own_half_life_days=9.0)
HISTORY = [(k % 5, 1, 1, T - (20 - k) * DAY, 1.0) for k in range(11)]  # more than the model's T = 8
TARGET = (7, 1, 1, T + DAY, 1.0)


def evaluator(folder, history):
    path = write_prepared(folder, {"a": [*history, TARGET]}, T, roles={"a": EVALUATION}, items=ITEMS)
    config = small_run.config(path)
    graphdef, state = create(config, Sizes(8, 3, 3))
    catalog = Catalog.open(path)
    data = EvaluationData(config, Timelines.open(path), catalog)
    return Evaluator(data, Embedder(graphdef, state.params, catalog.features), config.model.max_length)


@pytest.mark.usefixtures("standard_promotion")
def test_drops_are_those_of_data_without_the_event(tmp_path):
    model = evaluator(tmp_path / "whole", HISTORY)
    items = np.array([0, 3, 7])
    whole = model.served(PRIORS)(np.array([0]))[0, items]
    drops = score_drops(model, PRIORS, 0, items)
    assert drops.shape == (3, len(HISTORY))
    for k in range(len(HISTORY)):
        other = evaluator(tmp_path / f"without-{k}", HISTORY[:k] + HISTORY[k + 1 :])
        left = other.served(PRIORS)(np.array([0]))[0, items]
        np.testing.assert_allclose(drops[:, k], whole - left, atol=2e-6)
    assert drops[0, 0] > 0  # too old for the model, but counted
    assert drops[2, 0] == 0
