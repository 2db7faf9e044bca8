"""A trained run, loaded to embed users and items with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import nnx

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.retrieval.priors import Priors, kept_events, read_priors
from pinnerformer_jax.training.checkpoint import open_data, read_checkpoint
from pinnerformer_jax.training.checksums import checksum
from pinnerformer_jax.training.item_table import split_over_own
from pinnerformer_jax.training.run_record import data_digest


@dataclass(frozen=True)
class TrainedModel:
    """Parameters without the optimiser's, and the prepared data that they were trained on."""

    config: Config
    graphdef: nnx.GraphDef
    params: Any
    timelines: Timelines
    catalog: Catalog
    priors: Priors  # of the served score
    priors_note: str  # a sentence on them

    @classmethod
    def load(
        cls, workdir: str | Path, checkpoint: Literal["best", "last"], prepared: str | Path | None = None
    ) -> TrainedModel:
        """Read a run.

        Args:
            workdir: of the run.
            checkpoint: the best or the last, see `Checkpoints`.
            prepared: where its prepared folder is now; None: where the run found it.

        Raises:
            FileNotFoundError: no run, checkpoint or prepared data.
            ValueError: the prepared data are not those of the training, or priors.json is damaged.
        """
        config, graphdef, params, step, _ = read_checkpoint(workdir, checkpoint)
        priors = read_priors(Path(workdir), step)
        return cls(config, graphdef, params, *open_data(Path(workdir), prepared), *priors)

    def embedder(self, features: np.ndarray) -> Embedder:
        """Of this model and a catalogue's vectors [C, D_item], which several devices hold together if
        `training.shard_items` says so."""
        return Embedder(self.graphdef, self.params, features, split_over_own(features, self.config.training))

    @property
    def kept_events(self) -> int:
        """Newest events of each user that serving needs: those that the model reads, and those that the
        priors count."""
        length = self.config.model.max_length
        return kept_events(length) if self.priors.used else length

    @cached_property
    def data(self) -> str:
        """Digest of the prepared data."""
        return data_digest(self.timelines.manifest)

    @cached_property
    def version(self) -> str:
        """See `model_version`."""
        return model_version(self.config, self.data, self.params)


def model_version(config: Config, data: str, params: Any) -> str:
    """Twelve hex digits that change with any number that a vector depends on.

    Args:
        config: of the run; its `model` section counts.
        data: digest of the prepared data, which give the catalogue's vectors and the numbers of its items and
            actions.
        params: a pytree of arrays.
    """
    facts = json.dumps([asdict(config.model), data], sort_keys=True)
    return checksum(params, facts.encode())[:12]
