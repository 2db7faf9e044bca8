"""Turn an event log into timelines and a catalogue, ready to train on.

    python -m pinnerformer_jax.ingest --config configs/demo.py [--data.events 'log/*.parquet' ...]

Reads Parquet or CSV as the config's data and items sections say, sets bad rows aside with file, row and
reason, and writes the folder data.prepared (data/timelines.py says what is in it).

A large log can be prepared in parts, with the same bytes as a result: by many processes or by a Ray cluster
(--engine), or by any scheduler, a stage after the other (--stage). docs/parts.md says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pinnerformer_jax.command_line import add_engine, check_engine, errors_as_messages, parse, share
from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.timelines import Manifest
from pinnerformer_jax.ingestion import parts
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.ingestion.part_engines import prepare_in_parts
from pinnerformer_jax.ingestion.part_job import STAGES, Job

if TYPE_CHECKING:
    from rich.table import Table


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb."""
    from rich.console import Console

    flags = _flags()
    values, config = parse(__doc__, argv, flags)
    if values.part and values.stage not in _OF_MANY:
        flags.error(f"--part goes with --stage {', '.join(_OF_MANY)}")
    if values.stage and values.engine:
        flags.error("--stage runs a part of the work here; --engine runs all of it")
    check_engine(flags, values)
    with errors_as_messages():
        if values.stage and values.stage != "finish":
            return _run_stage(config, values.stage, values.part or (0, 1))
        if values.stage:
            manifest = parts.finish(Job.of(config), config.data.memory_limit)
        elif values.engine:
            manifest = prepare_in_parts(config, values.engine, values.workers, values.ray_address)
        else:
            manifest = prepare(config)
    Console().print(summary(manifest))
    print(f"prepared {config.data.prepared}")
    return None


_OF_MANY = ("items", "scatter", "merge", "count", "gather")


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    add_engine(flags, "prepare in parts: by processes here, or by Ray", "parts that run at once; one a core")
    flags.add_argument(
        "--stage", choices=STAGES, help="run this stage alone, or the --part of it; in this order"
    )
    flags.add_argument(
        "--part", type=share, metavar="I/N",
        help=f"the I-th of N shares of a stage, from 1 on: {', '.join(_OF_MANY)}",
    )  # fmt: skip
    return flags


def _run_stage(config: Config, stage: str, part_of: tuple[int, int]) -> None:
    """Run every N-th part of a stage, one after the other."""
    job = Job.of(config)
    chosen = range(part_of[0], job.parts(stage), part_of[1])
    for part in chosen:
        facts = parts.run_part(job, stage, part, config.data.memory_limit)
        print(f"{stage}: part {part} of {job.parts(stage)}, {facts['rows']:,} rows")
        for line in facts["said"]:
            print(line)
    if not chosen:
        print(f"{stage}: nothing to do, it has {job.parts(stage)} parts")


def summary(manifest: Manifest) -> Table:
    """What became of every row, who is who, and what the catalogue holds, for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Ingest", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for section in (_rows(manifest), _people(manifest), _names(manifest)):
        for name, value in section:
            table.add_row(escape(name), escape(value if isinstance(value, str) else f"{value:,}"))
        table.add_section()
    return table


def _rows(manifest: Manifest) -> Iterator[tuple[str, int]]:
    counts = manifest.counts
    yield "rows read", counts["rows"]
    yield "  out of scope (data.where)", counts["out_of_scope"]
    yield from ((f"  rejected: {reason}", rows) for reason, rows in counts["rejected"].items())
    yield "  other actions than data.sequence_actions", counts["other_actions"]
    yield "  after the evaluation window", counts["after_window"]
    yield "  of users with fewer than data.min_user_events", counts["of_small_users"]
    yield "events stored", counts["events"]
    yield "  of which positive", counts["positives"]
    yield "  of an unknown action", counts["unknown_actions"]
    yield "  on an unknown surface", counts["unknown_surfaces"]


def _people(manifest: Manifest) -> Iterator[tuple[str, int | str]]:
    counts = manifest.counts
    yield "split", format_time(manifest.split_time)
    yield "evaluation until", format_time(manifest.evaluation_end)
    yield from ((f"{role} users", number) for role, number in counts["users"].items())
    yield "  with events in the evaluation window", counts["evaluated_users"]
    yield "users left out, too few events", counts["small_users"]


def _names(manifest: Manifest) -> Iterator[tuple[str, int | str]]:
    counts = manifest.counts
    yield "items", counts["items"]
    yield "  of the training period", counts["trained_items"]
    yield "  out of reach: no vector", counts["unreachable_items"]
    if table := counts.get("item_table"):
        yield "rows of items.table", table["rows"]
        yield "  of items with stored events", table["in_log"]
        if table["unusable_ids"]:
            yield f"  without a usable id, such as {table['unusable_id']!r}", table["unusable_ids"]
    yield "actions", ", ".join(manifest.actions[1:5]) + (" ..." if len(manifest.actions) > 5 else "")
    yield "surfaces", len(manifest.surfaces) - 1


if __name__ == "__main__":
    main()
