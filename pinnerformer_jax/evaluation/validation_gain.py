"""Discounted gain of what is served, on validation users at earlier splits: by it training chooses the best
checkpoint.

The validation loss judges vectors by the pairs and negatives of the training, and recall of the inner product
alone by what priors do as well. So the priors are fitted at each checkpoint, on a coarse grid, as they will
be for what is served.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.evaluation.fit_priors import COARSE, Counts, counts_at, fit_priors
from pinnerformer_jax.model.inference import Embedder

FEWEST = 100
"""Users over all earlier splits; with fewer, the gain differs between checkpoints by chance."""


Split = Callable[[np.ndarray], Any]


class ValidationGain:
    """The gain of a model under training, see `Fit.served_gain`.

    Args:
        config: of the run.
        timelines: of the prepared folder.
        catalog: of the same folder.
        split: makes the table for `Embedder` of the catalogue's vectors; None: the first device holds them.
    """

    def __init__(
        self, config: Config, timelines: Timelines, catalog: Catalog, split: Split | None = None
    ) -> None:
        self.timelines, self._split = timelines, split
        self._data = EvaluationData(config, timelines, catalog)
        self._max_length = config.model.max_length
        self.users = sum(len(data.protocol.users) for data in self._data.earlier)

    @property
    def can_tell(self) -> bool:
        """Whether there are enough users to choose by."""
        return self.users >= FEWEST

    @cached_property
    def _counts(self) -> list[Counts]:
        return [counts_at(data, COARSE, self._max_length) for data in self._data.earlier]

    def __call__(self, graphdef: nnx.GraphDef, params: Any) -> tuple[float, float]:
        """The mean over users and splits, and its standard error."""
        features = self._data.catalog.features
        embedder = Embedder(graphdef, params, features, self._split and self._split(features))
        model = Evaluator(self._data, embedder, self._max_length)
        fit = fit_priors(model, COARSE, self._counts)
        return fit.served_gain, fit.error


def validation_gain(config: Config, split: Split | None = None) -> ValidationGain | None:
    """The measure for the training of a config; None, with a line that says so, if there are too few
    validation users. `split` as in `ValidationGain`.

    Raises:
        FileNotFoundError: the data were never prepared.
    """
    timelines = Timelines.open(config.data.prepared)
    measure = ValidationGain(config, timelines, Catalog.of(timelines), split)
    if measure.can_tell:
        print(
            f"the best checkpoint is chosen by the discounted gain of what is served to {measure.users:,} "
            "validation users at earlier splits, each counted once a split"
        )
        return measure
    print(
        f"the best checkpoint is chosen by the validation loss: the discounted gain needs {FEWEST} users at "
        f"earlier splits, each counted once a split, and there are {measure.users:,}; a larger "
        "data.validation_share has more"
    )
    return None
