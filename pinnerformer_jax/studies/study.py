"""A study trains and measures every variant with several seeds, and shows the paper's tables beside ours.

A cell is one training: a variant with a seed. A cell that several tables show is trained once. The workdir
has a folder for each cell, so that the next call does only what a stopped study lacks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from tqdm import tqdm

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import run_file
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.studies.cells import (
    Cell,
    Stopped,
    as_in_the_paper,
    cell_key,
    finish,
    missing,
    read_cell,
)
from pinnerformer_jax.studies.measure import Numbers, StudyData
from pinnerformer_jax.studies.study_report import write_study
from pinnerformer_jax.studies.study_summary import Outcomes, StudySummary, summarise_table
from pinnerformer_jax.studies.study_table import StudyTable
from pinnerformer_jax.training.checkpoint import check_name
from pinnerformer_jax.training.run_record import check_ingested, data_digest
from pinnerformer_jax.training.sizes import sized_by_log


@dataclass(frozen=True)
class Study:
    """What to train and show."""

    base: Config
    tables: tuple[StudyTable, ...]
    seeds: int


def load_tables(path: str, only: Sequence[str] | None = None) -> tuple[StudyTable, ...]:
    """The `tables` that a file in configs/studies/ builds.

    Args:
        path: the file.
        only: names of tables; None: all.

    Raises:
        ValueError: it builds none, or has no table of that name.
    """
    tables = run_file(path).get("tables")
    if not tables or not all(isinstance(table, StudyTable) for table in tables):
        raise ValueError(f"{path}: must define `tables = (...)`, see those in configs/studies/")
    names = [table.name for table in tables]
    if unknown := set(only or ()) - set(names):
        raise ValueError(f"--only {sorted(unknown)[0]}: no such table in {path}; it has {names}")
    return tuple(table for table in tables if only is None or table.name in only)


def run(study: Study, workdir: Path) -> dict[str, str]:
    """Train and measure the cells that the workdir lacks, then write study.json, report.html and report.md.

    Returns:
        Why cells failed, by name.

    Raises:
        FileNotFoundError: the data were never prepared.
        ValueError: they are not those of the base config, or the record of a cell is damaged.
    """
    if study.seeds < 1:
        raise ValueError(f"--seeds {study.seeds}: must be at least 1")
    check_name(workdir)
    study = dataclasses.replace(study, base=as_in_the_paper(sized_by_log(study.base)))
    data = StudyData.open(study.base)
    check_ingested(data.timelines.manifest, study.base)
    cells = make_cells(study, workdir, data_digest(data.timelines.manifest))
    waiting = [cell for cell in cells if missing(cell)]
    print(
        f"{study.base.name}: {len(cells)} cells of {study.base.training.steps} steps, "
        f"{len(cells) - len(waiting)} of them done, in {workdir}",
        flush=True,
    )
    failed = run_cells(waiting, data)
    failed |= {cell.name: why for cell in cells if (why := read_cell(cell).failed)}
    measured = outcomes(study, cells)
    tables = [summarise_table(study.base, table, measured) for table in study.tables]
    summary = StudySummary(study.base.name, study.seeds, tables, study.base, data.protocol.summary, failed)
    hours = sum(read_cell(cell).seconds for cell in cells) / 3600
    for path in write_study(summary, hours, workdir):
        print(f"wrote {path}")
    return failed


def run_cells(cells: list[Cell], data: StudyData) -> dict[str, str]:
    """Finish cells until a signal stops the study; the error of each failed cell, by name."""
    failed, started = {}, time.perf_counter()
    try:
        with (
            _termination_as_interrupt(),
            tqdm(cells, desc="cells", unit="cell", disable=None, dynamic_ncols=True) as bar,
        ):
            for done, cell in enumerate(bar, start=1):
                bar.set_postfix_str(cell.name)
                try:
                    outcome = finish(cell, data)
                except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
                    failed[cell.name] = outcome = f"failed: {error}"
                left = (time.perf_counter() - started) / done * (len(cells) - done)
                bar.write(f"{cell.name}: {outcome}; about {left / 60:,.0f} min left")
                sys.stdout.flush()
    except (Stopped, KeyboardInterrupt):
        print("stopped; the workdir keeps what is finished, and the same command resumes")
    return failed


def make_cells(study: Study, workdir: Path, data: str) -> list[Cell]:
    """Every training that the tables need, each once, seed by seed.

    Args:
        study: tables and base.
        workdir: of the study.
        data: digest of the prepared data: other data are other cells.
    """
    cells: dict[str, Cell] = {}
    for seed in range(study.seeds):
        for table in study.tables:
            for line in sorted(table.lines, key=lambda line: line.method != MODEL):  # the model names it
                config = line.variant.of(study.base, seed)
                key = cell_key(config, data)
                name = f"{table.name}: {line.name}, seed {seed}"
                cell = cells.setdefault(key, Cell(name, config, workdir / "cells" / key))
                cell.parts |= set(table.parts)
                cell.shown.append((table.name, line.name, seed))
    return list(cells.values())


def outcomes(study: Study, cells: list[Cell]) -> Outcomes:
    """What was measured for each line of each table, seed by seed; None where nothing (yet)."""
    found: dict[tuple[str, str], list[Numbers | None]] = {
        (table.name, line.name): [None for _ in range(study.seeds)]
        for table in study.tables
        for line in table.lines
    }
    for cell in cells:
        numbers = None if missing(cell) else read_cell(cell).numbers or None
        for table, line, seed in cell.shown:
            found[table, line][seed] = numbers
    return found


@contextlib.contextmanager
def _termination_as_interrupt() -> Generator[None, None, None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
