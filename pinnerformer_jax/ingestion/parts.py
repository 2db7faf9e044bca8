"""An ingest in parts, see part_job.py: a part, and the prepared folder at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.data.timelines import Manifest, write_manifest
from pinnerformer_jax.files import atomic_folder, facts_of, sync, write_json
from pinnerformer_jax.ingestion import ingest
from pinnerformer_jax.ingestion.log_reader import engine
from pinnerformer_jax.ingestion.part_job import FACTS, Job
from pinnerformer_jax.ingestion.part_stages import RUN, Task, write_prepared

if TYPE_CHECKING:
    import duckdb


def run_part(job: Job, stage: str, part: int, limit: str, threads: int | None = None) -> dict[str, Any]:
    """Run a part, if it has not run; its counts, and under "said" what to show.

    Args:
        job: the ingest.
        stage: one of STAGES.
        part: its number.
        limit: memory of the engine, as data.memory_limit.
        threads: of the engine; None: one a core.

    Raises:
        ValueError: the log or a setting cannot be used, or a stage before has not run to its end.
    """
    if (facts := job.facts(stage, part)) is not None:
        return facts
    said: list[str] = []
    folder = job.folder(stage, part)
    with _output(folder) as out, _engine(job, folder, limit, threads) as (connection, scratch):
        facts = RUN[stage](job, Task(connection, part, out, scratch, said.append)) | {"said": said}
        write_json(out / FACTS, facts)
    return facts


def finish(job: Job, limit: str, report: Callable[[str], None] = print) -> Manifest:
    """Write the prepared folder from the parts, and remove them.

    Raises:
        ValueError: a stage before has not run to its end, or the log cannot be used or was changed meanwhile.
    """
    if Job.of(job.config) != job:
        raise ValueError(
            f"the log of {job.work} was changed since its parts were begun: run the same command again"
        )
    failed = job.prepared.with_name(f"{job.prepared.name}.rejects.parquet")
    with (
        _engine(job, job.folder("finish", 0), limit, None) as (connection, _),
        atomic_folder(job.prepared) as folder,
    ):
        manifest = write_prepared(job, connection, folder, report)
        manifest = dataclasses.replace(manifest, files=facts_of(folder))
        write_manifest(folder, manifest)
    failed.unlink(missing_ok=True)  # of an earlier attempt
    shutil.rmtree(job.work.parent, ignore_errors=True)
    return manifest


def share_memory(limit: str, workers: int) -> str:
    """A worker's share of data.memory_limit."""
    return re.sub(r"[\d.]+", lambda number: f"{float(number[0]) / workers:.3f}", limit)


@contextlib.contextmanager
def _output(folder: Path) -> Generator[Path, None, None]:
    """A temporary folder; takes its place, synced, if the block ends without an error, unless it is taken."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for inner in temporary.rglob("*"):
            sync(inner)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / FACTS).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _engine(
    job: Job, folder: Path, limit: str, threads: int | None
) -> Generator[tuple[duckdb.DuckDBPyConnection, Path], None, None]:
    """A connection, and a folder for its copies and what it spills."""
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.work")
    scratch.mkdir(parents=True)
    try:
        with engine(scratch / "log.duckdb", limit, job.work) as connection:
            ingest.set_up_engine(connection, limit, scratch)
            connection.execute("SET enable_progress_bar = false")  # of many engines on one terminal
            if threads:
                connection.execute(f"SET threads = {threads}")
            yield connection, scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
