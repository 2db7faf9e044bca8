"""Settings of the event log, the prepared folder and the items."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import Literal

from pinnerformer_jax.config.checks import require, require_at_most, require_types


@dataclass(frozen=True)
class ColumnsConfig:
    """Where the event log has each fact. Each value is a column's name or any DuckDB SQL
    expression over the columns, such as `CASE WHEN is_like = 1 THEN 'like' ELSE 'view' END`. In CSV every
    column is text: ids keep their leading zeros, and numbers need a cast, `try_cast(stars AS DOUBLE) > 3`
    (AS INT would round 3.5 to 4)."""

    user: str = "user"
    """Who: whole numbers, text, decimals, booleans or dates; comes out of the system as it went in."""
    item: str = "item"
    """With what: of the same types."""
    time: str = "time"
    """When: a number (see --data.time-unit), a timestamp, or a text that reads as one."""
    action: str = ""
    """Kind of action, as text; empty: every event is an 'event'."""
    surface: str = ""
    """Where in the product, as text; empty: unknown."""
    duration: str = ""
    """How long, in seconds, or of a duration type; empty: 0."""
    title: str = ""
    """Item text, if the log has it; the first of the training period is kept."""
    topic: str = ""
    """Item topic, if the log has it."""

    def __post_init__(self) -> None:
        require_types(self, "data.columns")
        for name in ("user", "item", "time"):
            value = getattr(self, name)
            require(bool(value.strip()), f"data.columns.{name}", value, "name the log's column")


@dataclass(frozen=True)
class PositiveRule:
    """One kind of positive engagement; an event that meets any rule is a positive. The paper's are
    repin, closeup of 10 s or more and click of 10 s or more, each on Homefeed."""

    action: str = ""
    """Action it must be; empty: any."""
    min_duration: float = 0.0
    """Seconds it must have lasted."""
    surface: str = ""
    """Surface it must be on; empty: any."""

    def __post_init__(self) -> None:
        require_types(self, "data.positives")
        require(self.min_duration >= 0, "data.positives.min_duration", self.min_duration, "must be >= 0 s")


@dataclass(frozen=True)
class CsvConfig:
    """How CSV files are written. Fields may be quoted with ", and a quote within is doubled."""

    delimiter: str = ""
    """Character between fields; empty: comma, tab, semicolon or bar, whichever the header has most of."""
    encoding: str = "utf-8"
    """Encoding of the text, by Python's name of it: utf-8, latin-1, cp1252, utf-16 ..."""

    def __post_init__(self) -> None:
        alone = len(self.delimiter) <= 1 and self.delimiter not in ('"', "\r", "\n")
        require(alone, "csv.delimiter", self.delimiter, "must be one character, no quote or line break")
        try:
            of_text = codecs.lookup(self.encoding)._is_text_encoding  # not that of base64, zip ...
        except (LookupError, ValueError):
            of_text = False
        require(of_text, "csv.encoding", self.encoding, "Python knows no such encoding of text")


@dataclass(frozen=True)
class DataConfig:
    """From the event log to timelines."""

    events: tuple[str, ...] = ()
    """Parquet or CSV files (plain or .gz), globs or URLs (`s3://bucket/log/*.parquet`) of them; or
    `tfds:NAME` / `tfds:NAME:SPLIT`."""
    prepared: str = ""
    """Folder of the prepared timelines and catalogue: ingest writes it, all else reads it."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    csv: CsvConfig = field(default_factory=CsvConfig)
    where: str = ""
    """SQL condition on the log; rows that do not meet it are out of scope (counted, not rejected)."""
    time_unit: Literal["s", "ms", "us", "ns", "timestamp"] = "s"
    """Unit of a numeric time since 1970-01-01 UTC; `timestamp` for timestamps and texts."""
    time_zone: str = "UTC"
    """Zone assumed for timestamps that carry none."""
    time_min: str = "1990-01-01"
    """Earlier times are rejected (UTC)."""
    time_max: str = "2060-01-01"
    """Later times are rejected (UTC)."""
    positives: tuple[PositiveRule, ...] = (PositiveRule(),)
    """What counts as positive engagement: an event that meets any of these."""
    sequence_actions: tuple[str, ...] = ()
    """Actions that enter the timelines; empty: all. The others are dropped and counted."""
    min_user_events: int = 2
    """Users with fewer events up to the split are left out (counted)."""
    split_time: str = ""
    """t, the end of training, ISO, UTC; empty: evaluation_days before the last event, without a
    few far behind all others."""
    final: bool = False
    """t is the end of the log, without an evaluation window: for a run on everything, with the settings of an
    evaluated run. `train --final` sets it; no user may be held out then."""
    evaluation_days: float = 14.0
    """Targets of the evaluation lie in (t, t + this many days]."""
    evaluation_share: float = 0.1
    """Share of users, by a stable hash of the id, that never train and are evaluated on."""
    validation_share: float = 0.02
    """Share of users kept from training to choose the best checkpoint; they see nothing after t."""
    max_reject_share: float = 0.05
    """Stop if more than this share of the rows in scope is bad."""
    shards: int = 4
    """Files the timelines are split into, by user hash."""
    memory_limit: str = "2GB"
    """Memory the ingest engine may use before it spills to disk, beside the prepared folder."""

    def __post_init__(self) -> None:
        require_types(self, "data")
        for rule in self.positives:
            require(
                not self.sequence_actions or rule.action in ("", *self.sequence_actions),
                "data.positives", rule.action, "is not in data.sequence_actions, so never in a timeline",
            )  # fmt: skip
        for name in ("evaluation_share", "validation_share", "max_reject_share"):
            require(
                0.0 <= getattr(self, name) <= 1.0, f"data.{name}", getattr(self, name), "a share in [0, 1]"
            )
        held_out = self.evaluation_share + self.validation_share
        require(
            held_out < 1.0,
            "data.evaluation_share + data.validation_share",
            held_out,
            "no user is left to train",
        )
        require(
            not self.final or held_out == 0,
            "data.final", True, "all users train: needs data.evaluation_share 0, data.validation_share 0",
        )  # fmt: skip
        require(self.evaluation_days > 0, "data.evaluation_days", self.evaluation_days, "must be > 0 days")
        require(self.min_user_events >= 1, "data.min_user_events", self.min_user_events, "must be >= 1")
        require(self.shards >= 1, "data.shards", self.shards, "must be >= 1")
        require_at_most(self, "data", evaluation_days=36_500, shards=4_096, min_user_events=10**9)
        size = r"\s*(?=[\d.]*[1-9])\d+(\.\d+)?\s*([kmgt]i?b|bytes?|%)\s*"
        require(
            bool(re.fullmatch(size, self.memory_limit, re.IGNORECASE)),
            "data.memory_limit", self.memory_limit, "must be a size, such as 2GB",
        )  # fmt: skip
        require(len(self.positives) > 0, "data.positives", self.positives, "needs at least one rule")


@dataclass(frozen=True)
class ItemsConfig:
    """Item vectors, titles and topics. Given vectors win; without them they are built from the
    training period: PPMI + SVD of co-occurrence, and TF-IDF + SVD of the text."""

    table: str = ""
    """Item table (Parquet or CSV, a file or a URL), one row an item; empty: items are those of the log."""
    csv: CsvConfig = field(default_factory=CsvConfig)
    id: str = "item"
    """Its item id column (or SQL expression), of the same kind as in the log."""
    without_events: bool = False
    """Items of the table that no stored event names are candidates too; False: they are left out."""
    vector: str = ""
    """Its column of given vectors (a list of numbers); empty: vectors are built."""
    title: str = ""
    """Its title column or SQL expression, to show and for the text vector."""
    topic: str = ""
    """Its topic column, for interest entropy; empty: topics are k-means clusters of the vectors."""
    text: tuple[str, ...] = ()
    """Further text or category columns that feed the text vector."""
    built_dim: int = 128
    """Numbers per built vector: half co-occurrence, half text if there is text."""

    def __post_init__(self) -> None:
        require_types(self, "items")
        require(self.built_dim >= 2, "items.built_dim", self.built_dim, "must be >= 2")
        require_at_most(self, "items", built_dim=65_536)
        require(bool(self.id.strip()), "items.id", self.id, "name the item table's column")
        columns = (self.vector, self.title, self.topic, *self.text)
        require(
            bool(self.table) or not any(columns),
            "items.table",
            self.table,
            "name the table these columns are in",
        )
