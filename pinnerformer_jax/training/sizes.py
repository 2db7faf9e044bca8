"""Fill in the settings that `Config.sizes_by_log` leaves to the log."""

from __future__ import annotations

import dataclasses

import jax

from pinnerformer_jax.config import Config
from pinnerformer_jax.config.by_log import SHARES, LogSize, fill, settings_by_log
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
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
    log = log_size(timelines, catalog)
    print(
        f"sizes by the log: {log.users:,} training users with {log.events:,} events, {log.items:,} items "
        f"with vectors of {log.item_dim} numbers, {log.days:,.0f} days"
    )
    ingested = {name: timelines.manifest.config["data"][name] for name in SHARES}
    found = {"data": ingested, **settings_by_log(log)}
    sections = {name: fill(getattr(config, name), values) for name, values in found.items()}
    return dataclasses.replace(config, sizes_by_log=False, **sections)


def log_size(timelines: Timelines, catalog: Catalog) -> LogSize:
    """The size of a prepared log."""
    events = [shard.cut[shard.role == TRAIN] for shard in timelines.shards]
    split = timelines.manifest.split_time
    first = min((int(shard.time.min()) for shard in timelines.shards if len(shard.time)), default=split)
    return LogSize(
        users=sum(map(len, events)),
        events=sum(int(of.sum()) for of in events),
        items=catalog.trained,
        item_dim=catalog.features.shape[1],
        days=(split - first) / DAY,
    )
