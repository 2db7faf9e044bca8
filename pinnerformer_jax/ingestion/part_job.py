"""The same prepared folder as `ingest.prepare` writes, made in parts that may run anywhere and twice.

    items     a part a file of items.table the item table's rows, checked, and its vectors, scaled; as for
                                           `scatter`, a large file is several parts, small ones are one
    table     one part                     the item table as a whole
    scatter   a part a file of the log     its rows, mapped and checked, to a Parquet file for each shard
    merge     a part a shard               without duplicates
    split     one part                     rejects, actions, the time of the split
    count     a part a shard               users, and how many events each item, action and surface has
    number    one part                     the sums: numbers of items, actions and surfaces
    gather    a part a shard               the shard's timelines
    finish    one part                     the catalogue, the manifest, and the folder in its place

A user's shard is a hash of the id (`timeline_writer.shard_of_user`), so all that is told per user is told
within a shard. Each part reads the files of the stages before and writes a folder of its own below
PREPARED.parts/KEY, which appears by a rename: a part that ran is not run again, and of a part that runs twice
at once the first result stays. KEY is a checksum of the settings and of the size and time of each file, so
other inputs never meet old results. Without items.table the first two stages have no part.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pinnerformer_jax.config import Config, DataConfig
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.files import with_checksum
from pinnerformer_jax.ingestion import ingest
from pinnerformer_jax.ingestion.log_reader import FileRows, log_files, log_parts
from pinnerformer_jax.remote_files import identity

if TYPE_CHECKING:
    import duckdb

STAGES = ("items", "table", "scatter", "merge", "split", "count", "number", "gather", "finish")
"""In order: each needs all parts of those before it."""

FACTS = "facts.json"

SMALL_ROWS, PART_ROWS, ITEM_ROWS = 1_000_000, 16_000_000, 2_000_000
"""Rows of a part of `scatter`: smaller files are put together until they have the former, some seconds of a
core; of a larger Parquet file the second, and the rest of their row group, are a part, about a minute. Of
`items` the third, because of the vectors."""


@dataclass(frozen=True)
class Job:
    """An ingest in parts."""

    config: Config
    log: tuple[tuple[FileRows, ...], ...]  # the parts of `scatter`
    table: tuple[tuple[FileRows, ...], ...]  # the parts of `items`
    work: Path  # PREPARED.parts/KEY

    @classmethod
    def of(cls, config: Config) -> Job:
        """The job that a config asks for.

        Raises:
            FileNotFoundError: there is no such log.
            ValueError: a setting cannot be used.
        """
        from pinnerformer_jax import __version__

        data, prepared = config.data, ingest.target(config.data.prepared)
        if any(pattern.startswith("tfds:") for pattern in data.events):
            raise ValueError(
                "data.events: a tfds: data set is prepared by one process, without --engine or --stage"
            )
        files = log_files("data.events", data.events, prepared.parent)
        log = tuple(log_parts("data.events", files, SMALL_ROWS, PART_ROWS))
        of_items = (
            log_files("items.table", [config.items.table], prepared.parent) if config.items.table else []
        )
        table = tuple(log_parts("items.table", of_items, SMALL_ROWS, ITEM_ROWS))
        facts = {
            "version": __version__,
            "data": to_dict(dataclasses.replace(data, memory_limit=DataConfig.memory_limit)),
            "items": to_dict(config.items),
            "sizes_by_log": config.sizes_by_log,
            "files": [identity(file) for file in files + of_items],
            "parts": [[str(rows) for rows in part] for part in log + table],
        }
        return cls(
            config,
            log,
            table,
            prepared.with_name(f"{prepared.name}.parts") / with_checksum(facts)["sha256"][:16],
        )

    @property
    def prepared(self) -> Path:
        """The folder to write."""
        return ingest.target(self.config.data.prepared)

    def parts(self, stage: str) -> int:
        """How many parts a stage has."""
        of = {"items": len(self.table), "table": min(len(self.table), 1), "scatter": len(self.log)}
        of |= dict.fromkeys(("merge", "count", "gather"), self.config.data.shards)
        return of.get(stage, 1)

    def folder(self, stage: str, part: int) -> Path:
        """What a part writes."""
        return self.work / stage / f"{part:05d}"

    def facts(self, stage: str, part: int = 0) -> dict[str, Any] | None:
        """Counts of a part; None: it has not run."""
        file = self.folder(stage, part) / FACTS
        return json.loads(file.read_text()) if file.is_file() else None

    def all_facts(self, stage: str) -> list[dict[str, Any]]:
        """Counts of all parts of a stage.

        Raises:
            ValueError: one has not run.
        """
        found = [self.facts(stage, part) for part in range(self.parts(stage))]
        if missing := [part for part, facts in enumerate(found) if facts is None]:
            raise ValueError(
                f"{self.work}: {len(missing)} of {len(found)} parts of --stage {stage} have not run with "
                f"this log and these settings, such as part {missing[0]}: run that stage first"
            )
        return [facts for facts in found if facts is not None]

    def here(self, stage: str, name: str) -> list[Path]:
        """The files of a name of all parts of a stage."""
        return [self.folder(stage, part) / name for part in range(self.parts(stage))]


class Task(NamedTuple):
    """A part that runs, and where."""

    connection: duckdb.DuckDBPyConnection
    part: int  # its number
    out: Path  # folder for what it makes
    scratch: Path  # for its copies
    report: Callable[[str], None]
