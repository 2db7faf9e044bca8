"""Recall@10 of validation users at earlier splits, by which training chooses the best checkpoint.

The validation loss judges vectors by the pairs and negatives of the training; recall, as they are used: where
people rarely come back to an item, what a user had is left out of the candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import PAPER_K, of_full_catalogue
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.model.inference import Embedder

FEWEST = 100
"""Users over all earlier splits; with fewer, recall differs between checkpoints by chance."""


Split = Callable[[np.ndarray], Any]


class ValidationRecall:
    """Recall@10 over the full catalogue of a model under training: of all items, or of those that the user
    did not have, whichever is higher.

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
        self.users = sum(len(data.protocol.users) for data in self._data.earlier)

    @property
    def can_tell(self) -> bool:
        """Whether there are enough users to choose by."""
        return self.users >= FEWEST

    def __call__(self, graphdef: nnx.GraphDef, params: Any) -> tuple[float, float]:
        """The mean over users and splits, and its standard error."""
        features = self._data.catalog.features
        embedder = Embedder(graphdef, params, features, self._split and self._split(features))
        model = Evaluator(self._data, embedder, self._data.config.model.max_length)
        recalls = [
            of_full_catalogue(model.on(data).scorer, data.protocol, data.config.evaluation, "recall", PAPER_K)
            for data in self._data.earlier
        ]
        of_each = max(map(np.concatenate, zip(*recalls, strict=True)), key=np.mean)
        return float(of_each.mean()), float(of_each.std() / np.sqrt(len(of_each)))


def validation_recall(config: Config, split: Split | None = None) -> ValidationRecall | None:
    """The measure for the training of a config; None, with a line that says so, if there are too few
    validation users. `split` as in `ValidationRecall`.

    Raises:
        FileNotFoundError: the data were never prepared.
    """
    timelines = Timelines.open(config.data.prepared)
    measure = ValidationRecall(config, timelines, Catalog.of(timelines), split)
    if measure.can_tell:
        print(
            f"the best checkpoint is chosen by recall@10 of {measure.users:,} validation users at earlier "
            "splits, each counted once a split"
        )
        return measure
    print(
        f"the best checkpoint is chosen by the validation loss: recall@10 needs {FEWEST} users at earlier "
        f"splits, each counted once a split, and there are {measure.users:,}; a larger data.validation_share "
        "has more"
    )
    return None
