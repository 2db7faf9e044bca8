"""A study small enough to run in a test: a log of a hundred users, tiny towers, two tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import small_run
from logs import given, make_events, write_parquet

from pinnerformer_jax.config import Config, EvaluationConfig, PositiveRule
from pinnerformer_jax.ingestion.ingest import prepare

STUDY = """
from pathlib import Path
from pinnerformer_jax.config_files import from_dict
from pinnerformer_jax.studies.study_table import BASE, COVERAGE, RECALL, Line, StudyTable, Variant
import json

config = from_dict(json.loads(Path(__file__).with_name("config.json").read_text()))
tables = (
    StudyTable(
        "objectives",
        "Two objectives",
        (
            Line("next", Variant(objective={"name": "next_action"}), (0.1, 0.2)),
            Line("dense", BASE, (0.2, 0.1)),
        ),
        (RECALL, COVERAGE),
    ),
    StudyTable("again", "Again", (Line("dense, again", BASE),), (RECALL,), ("retrieval", "pinnersage")),
)
"""


def prepared(folder: Path, **training: int) -> Config:
    """A log, ingested, and a config to train on it. A view is no positive and in no timeline."""
    log = write_parquet(folder / "log.parquet", make_events(users=100))
    config = given(
        folder,
        events=(log,),
        positives=(PositiveRule(action="like"), PositiveRule(action="save")),
        sequence_actions=("like", "save"),
    )
    prepare(config, lambda text: None)
    small = small_run.config(folder, **training)
    return dataclasses.replace(
        config, model=small.model, objective=small.objective, training=small.training,
        evaluation=EvaluationConfig(cutoffs=(3,)),
    )  # fmt: skip
