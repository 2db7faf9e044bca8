"""The cells of a study: one training each, with the record of its measurements."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from pinnerformer_jax.config import Config, DataConfig
from pinnerformer_jax.config_files import differences, in_sections_of_today, to_dict
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.files import folder_lock, read_checked_json, write_checked_json
from pinnerformer_jax.studies.measure import Numbers, StudyData, measure_run
from pinnerformer_jax.studies.study_table import Part
from pinnerformer_jax.training.loop import TrainingError, open_run, train


@dataclass
class Cell:
    """One training: a variant with a seed."""

    name: str  # of the first line that shows it, for messages
    config: Config
    folder: Path
    parts: set[Part] = field(default_factory=set)  # of the evaluation, those that its tables show
    shown: list[tuple[str, str, int]] = field(default_factory=list)  # table, line and seed it is shown as


@dataclass
class CellRecord:
    """The contents of a cell's measured.json."""

    evaluation: dict[str, Any]  # settings that it was measured with
    parts: list[str] = field(default_factory=list)  # that are measured
    numbers: Numbers = field(default_factory=dict)
    seconds: float = 0.0  # that training and measuring took
    failed: str = ""  # why its training cannot be finished

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CellRecord:
        """The inverse of `to_json`, also for what an older version wrote.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is unknown, or the values are no object.
        """
        for name in ("parts", "numbers", "seconds"):
            values[name]  # required
        evaluation = in_sections_of_today({"evaluation": values["evaluation"]})["evaluation"]
        return cls(**{**values, "evaluation": evaluation})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; "failed" only if it did."""
        values = dataclasses.asdict(self)
        return values if self.failed else {k: v for k, v in values.items() if k != "failed"}


class Stopped(Exception):
    """The user or the system asked the study to stop."""


def as_in_the_paper(config: Config) -> Config:
    """The config with the paper's loss: nothing is added to the logits for the sake of the served score,
    which a study does not measure."""
    objective = dataclasses.replace(config.objective, popularity_half_life_days=0.0)
    return dataclasses.replace(config, objective=objective)


def cell_key(config: Config, data: str) -> str:
    """Twelve hex digits of the settings that decide a training. Paths, trackers, evaluation and the making of
    item vectors are not among them; the vectors are part of the data. Settings with their default value are
    left out, so that a new setting of the project does not change the keys of old cells."""
    default = Config()
    apart = {
        name: getattr(default, name) for name in ("items", "embedding", "index", "evaluation", "pinsage")
    }
    data_config = DataConfig(positives=config.data.positives)
    training = dataclasses.replace(config.training, wandb="", mlflow="")
    meant = dataclasses.replace(config, name=data, data=data_config, training=training, **apart)
    lines = differences(to_dict(default), to_dict(meant))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def missing(cell: Cell) -> set[Part]:
    """The parts that are still to be measured."""
    record = read_cell(cell)
    return set() if record.failed else cell.parts - set(record.parts)


def read_cell(cell: Cell) -> CellRecord:
    """The record of a cell; an empty one if there is none with these evaluation settings.

    Raises:
        ValueError: the file is not the record of a cell.
    """
    file = cell.folder / "measured.json"
    empty = CellRecord(to_dict(cell.config.evaluation))
    if not file.is_file():
        return empty
    try:
        record = CellRecord.from_json(read_checked_json(file, "the record of a cell", "delete it"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: not the record of a cell ({error}); delete it") from error
    return record if record.evaluation == empty.evaluation else empty


def finish(cell: Cell, data: StudyData) -> str:
    """Train a cell to its end, measure the missing parts and write the record; the outcome in words.

    Raises:
        Stopped: by a signal while it trained; its checkpoint is saved.
    """
    record, started = read_cell(cell), time.perf_counter()
    cell.folder.mkdir(parents=True, exist_ok=True)
    try:
        with folder_lock(cell.folder), _output_to(cell.folder / "log.txt"):
            loop, state = open_run(cell.config, cell.folder)
            if int(train(loop, state).step) < cell.config.training.last_step:
                raise Stopped
            numbers = measure_run(data, cell.folder, missing(cell))
        for method, values in numbers.items():
            record.numbers.setdefault(method, {}).update(values)
        record.parts = sorted(cell.parts | set(record.parts))
        outcome = f"recall@10 {record.numbers[MODEL]['recall@10']:.4f}"
    except TrainingError as error:
        record.failed = outcome = str(error)
    finally:
        jax.clear_caches()  # later cells run other programs
    seconds = time.perf_counter() - started
    record.seconds += seconds
    data.timelines.check()
    write_checked_json(cell.folder / "measured.json", record.to_json())
    return f"{outcome} ({seconds:.0f} s)"


@contextlib.contextmanager
def _output_to(file: Path) -> Generator[None, None, None]:
    """Redirect the output of a training to a file, so that the terminal shows the study's alone."""
    with (
        file.open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield
