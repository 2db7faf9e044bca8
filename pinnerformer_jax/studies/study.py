"""A study trains and measures every variant with several seeds, and shows the paper's tables beside ours.

A cell is one training: a variant with a seed. A cell that several tables show is trained once. The workdir
has a folder for each cell, so that the next call does only what a stopped study lacks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import runpy
import signal
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from pinnerformer_jax.config import (
    Config,
    DataConfig,
    EmbeddingConfig,
    EvaluationConfig,
    IndexConfig,
    ItemsConfig,
    PinSageConfig,
)
from pinnerformer_jax.config_files import differences, in_sections_of_today, to_dict
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.files import write_json
from pinnerformer_jax.studies.measure import StudyData, measure_run
from pinnerformer_jax.studies.study_report import write_study
from pinnerformer_jax.studies.study_summary import Outcomes, summarise
from pinnerformer_jax.studies.study_tables import Part, StudyTable
from pinnerformer_jax.training.checkpoint import check_ingested, data_digest
from pinnerformer_jax.training.loop import TrainingError, open_run, train


@dataclass(frozen=True)
class Study:
    """What to train and show."""

    base: Config
    tables: tuple[StudyTable, ...]
    seeds: int


@dataclass
class Cell:
    """One training: a variant with a seed."""

    name: str  # of the first line that shows it, for messages
    config: Config
    folder: Path
    parts: set[Part] = field(default_factory=set)  # what its tables show of it
    shown: list[tuple[str, str, int]] = field(default_factory=list)  # table, line and seed it is shown as


class Stopped(Exception):
    """The user or the system asked the study to stop."""


def load_tables(path: str, only: Sequence[str] | None = None) -> tuple[StudyTable, ...]:
    """The `tables` that a file in configs/studies/ builds.

    Args:
        path: the file.
        only: names of tables; None: all.

    Raises:
        ValueError: it builds none, or has no table of that name.
    """
    tables = runpy.run_path(path).get("tables")
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
    summary = summarise(study.base, study.tables, outcomes(study, cells), study.seeds)
    summary["protocol"] = dataclasses.asdict(data.protocol.summary)
    failed |= {cell.name: why for cell in cells if (why := read_cell(cell).get("failed"))}
    summary["failed"] = failed
    hours = sum(read_cell(cell)["seconds"] for cell in cells) / 3600
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


def cell_key(config: Config, data: str) -> str:
    """Twelve hex digits of the settings that decide a training. Paths, evaluation and the making of item
    vectors are not among them; the vectors are part of the data. Settings with their default value are left
    out, so that a new setting of the project does not change the keys of old cells."""
    meant = dataclasses.replace(
        config,
        name=data,
        data=DataConfig(positives=config.data.positives),
        items=ItemsConfig(),
        embedding=EmbeddingConfig(),
        index=IndexConfig(),
        evaluation=EvaluationConfig(),
        pinsage=PinSageConfig(),
    )
    lines = differences(to_dict(Config()), to_dict(meant))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def missing(cell: Cell) -> set[str]:
    """The parts that are still to be measured."""
    record = read_cell(cell)
    return set() if "failed" in record else cell.parts - set(record["parts"])


def read_cell(cell: Cell) -> dict[str, Any]:
    """What was measured of a cell, with these evaluation settings.

    Raises:
        ValueError: the file is not whole.
    """
    file = cell.folder / "measured.json"
    empty = {"parts": [], "numbers": {}, "seconds": 0.0, "evaluation": to_dict(cell.config.evaluation)}
    if not file.is_file():
        return empty
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        measured_with = in_sections_of_today({"evaluation": record["evaluation"]})["evaluation"]
        return record if measured_with == empty["evaluation"] else empty
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not the record of a cell ({error}); delete it") from error


def finish(cell: Cell, data: StudyData) -> str:
    """Train a cell to its end, measure the missing parts and write the record; the outcome in words.

    Raises:
        Stopped: by a signal while it trained; its checkpoint is saved.
    """
    record, started = read_cell(cell), time.perf_counter()
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        with _said_to(cell.folder / "log.txt"):
            loop, state = open_run(cell.config, cell.folder)
            if int(train(loop, state).step) < cell.config.training.steps:
                raise Stopped
            numbers = measure_run(data, cell.folder, missing(cell))
        for method, values in numbers.items():
            record["numbers"].setdefault(method, {}).update(values)
        record["parts"] = sorted(cell.parts | set(record["parts"]))
        outcome = f"recall@10 {record['numbers'][MODEL]['recall@10']:.4f}"
    except TrainingError as error:
        record["failed"] = outcome = str(error)
    finally:
        jax.clear_caches()  # later cells run other programs
    seconds = time.perf_counter() - started
    record["seconds"] += seconds
    write_json(cell.folder / "measured.json", record)
    return f"{outcome} ({seconds:.0f} s)"


def outcomes(study: Study, cells: list[Cell]) -> Outcomes:
    """What was measured for each line of each table, seed by seed; None where nothing (yet)."""
    found: Outcomes = {
        (table.name, line.name): [None] * study.seeds for table in study.tables for line in table.lines
    }
    for cell in cells:
        numbers = None if missing(cell) else read_cell(cell)["numbers"] or None
        for table, line, seed in cell.shown:
            found[table, line][seed] = numbers
    return found


@contextlib.contextmanager
def _said_to(file: Path) -> Generator[None, None, None]:
    """Redirect the output of a training to a file, so that the terminal shows the study's alone."""
    with (
        file.open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


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
