"""What training reads of a prepared folder: timelines, catalogue, sizes of the model, device tables."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.popularity import popularity_over_time
from pinnerformer_jax.data.positives import only_actions, positive_table
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training.item_table import place
from pinnerformer_jax.training.run_record import check_ingested
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import Tables


class TrainingData(NamedTuple):
    """A prepared folder, opened for training."""

    timelines: Timelines  # memory-mapped
    catalog: Catalog  # likewise; random negatives are its rows 0 : trained
    sizes: Sizes  # for PinnerFormer
    tables: Tables  # on the devices, for training_loss


def open_training_data(config: Config, mesh: Mesh | None = None) -> TrainingData:
    """Open the prepared folder `config.data.prepared` and put its tables on the devices.

    Args:
        config: the experiment; its data and items sections must be those of the ingest.
        mesh: from `sharding.make_mesh`. None: one device, which holds the catalogue whole.

    Returns:
        Timelines, catalogue, sizes of the model, tables.

    Raises:
        FileNotFoundError: the data were never prepared.
        ValueError: the config leaves its sizes to the log; the data were prepared with other settings; or a
            rule of positives, or a target action, names what the log does not have.
    """
    if config.sizes_by_log:
        raise ValueError("sizes_by_log = True: give the config that training.sizes.sized_by_log returns")
    timelines = Timelines.open(config.data.prepared, verify=jax.process_index() == 0)  # reads all bytes
    catalog = Catalog.of(timelines)
    check_ingested(timelines.manifest, config)
    actions, surfaces = timelines.manifest.actions, timelines.manifest.surfaces
    identities = catalog.trained if config.model.identity_dim else 0
    sizes = Sizes(catalog.features.shape[1], len(actions), len(surfaces), identities, catalog.items)
    table = positive_table(config.data.positives, actions, surfaces)
    table = only_actions(table, actions, config.objective.target_actions)
    training = config.training
    if mesh is None:
        mesh, training = make_mesh(1), dataclasses.replace(training, shard_items=False)
    features = place(mesh, catalog.features, training)
    text_map = catalog.text_arrays.get("map") if config.objective.new_item_share else None
    popularity = None
    if half_life := config.objective.popularity_half_life_days:
        popularity = popularity_over_time(timelines, table, catalog.items, half_life)
    tables = Tables(features, *replicate(mesh, (table, np.uint32(training.seed), text_map, popularity)))
    return TrainingData(timelines, catalog, sizes, tables)
