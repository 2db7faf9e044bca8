"""Fill in the settings that `Config.sizes_by_log` leaves to the log."""

from __future__ import annotations

import dataclasses
import math

import jax

from pinnerformer_jax.config import Config, PositiveRule
from pinnerformer_jax.config.by_log import FEW_USERS, SHARES, LogSize, fill, settings_by_log
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.popularity import popularity_drift
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import TRAIN, Timelines


def sized_by_log(config: Config) -> Config:
    """The config with all settings that its prepared log decides, if it asks for them by `sizes_by_log`; else
    the config as it is. A setting that is not at its default stays as it is. Prints the size of the log.

    Raises:
        FileNotFoundError: the data were never prepared.
    """
    if not config.sizes_by_log:
        return config
    timelines = Timelines.open(config.data.prepared, verify=jax.process_index() == 0)
    catalog = Catalog.of(timelines)
    log = log_size(timelines, catalog, config.data.positives)
    print(
        f"sizes by the log: {log.users:,} training users with {log.events:,} events, {log.items:,} items "
        f"with vectors of {log.item_dim} numbers, popularity drift {log.popularity_drift:.2f} nats"
    )
    ingested = {name: timelines.manifest.config["data"][name] for name in SHARES}
    found = {"data": ingested, **settings_by_log(log)}
    if config.objective.loss != "sampled_softmax":  # has no softmax to add popularity to
        found["objective"].pop("popularity_half_life_days")
    sections = {name: fill(getattr(config, name), values) for name, values in found.items()}
    return dataclasses.replace(config, sizes_by_log=False, **sections)


def log_size(timelines: Timelines, catalog: Catalog, rules: tuple[PositiveRule, ...]) -> LogSize:
    """The size of a prepared log and, of few users, how much popularity changes.

    Args:
        timelines: of the prepared folder.
        catalog: of the same folder.
        rules: what a positive is.
    """
    events = [shard.cut[shard.role == TRAIN] for shard in timelines.shards]
    users, drift = sum(map(len, events)), math.nan
    if users < FEW_USERS:
        manifest = timelines.manifest
        table = positive_table(rules, manifest.actions, manifest.surfaces)
        drift = popularity_drift(timelines, table, catalog.items)
    return LogSize(
        users=users,
        events=sum(int(of.sum()) for of in events),
        items=catalog.trained,
        item_dim=catalog.features.shape[1],
        popularity_drift=drift,
    )
