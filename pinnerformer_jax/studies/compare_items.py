"""Compare the ways to make item vectors: item to item, and by the PinnerFormer that is trained on them.

Each method makes vectors with each seed, and a PinnerFormer is trained on them with that seed. All trainings
have the same settings. The workdir keeps vectors and trainings; those that it has are not made again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import MODEL
from pinnerformer_jax.files import write_json, write_text
from pinnerformer_jax.items.item_to_item import CUTOFF, evaluate_vectors
from pinnerformer_jax.items.methods import Method, Sources, make_vectors, open_sources
from pinnerformer_jax.items.prepared_copy import made_by, provenance, write_copy
from pinnerformer_jax.studies.cells import Cell, as_in_the_paper, cell_key, finish, missing, read_cell
from pinnerformer_jax.studies.measure import StudyData
from pinnerformer_jax.studies.study_summary import spread
from pinnerformer_jax.training.run_record import check_ingested, data_digest
from pinnerformer_jax.training.sizes import sized_by_log

GIVEN = "given"
METRICS = "recall@10", "new_items recall@10"
"""Of PinnerFormer, on evaluation users."""

Numbers = dict[str, dict[str, list[float]]]
"""By method and metric, seed by seed."""


def compare_methods(
    config: Config, methods: Sequence[Method | Literal["given"]], seeds: int, workdir: Path
) -> tuple[Numbers, dict[str, int]]:
    """Make the vectors and trainings that the workdir lacks, and measure all.

    Returns:
        Numbers of every method, and how many pairs of items there are of each kind.

    Raises:
        FileNotFoundError: the data were never prepared.
        ValueError: they are not those of the config.
        Stopped: by a signal during a training.
    """
    config = as_in_the_paper(sized_by_log(config))
    timelines = Timelines.open(config.data.prepared)
    check_ingested(timelines.manifest, config)
    numbers: Numbers = {}

    def add(method: str, metric: str, value: float) -> None:
        numbers.setdefault(method, {}).setdefault(metric, []).append(value)

    for seed in range(seeds):
        seeded = _seeded(config, seed)
        sources = open_sources(seeded, timelines)
        folders = {method: vectors_of(method, sources, timelines, workdir) for method in methods}
        made: dict[str, np.ndarray] = {}
        for method, folder in folders.items():
            made[method] = Catalog.open(folder).features.astype(np.float32)
        results = evaluate_vectors(timelines, sources, made)
        timelines.check()
        pairs = {kind: found.pairs for kind, found in results[methods[0]].items()}
        for method, by_kind in results.items():
            for kind, found in by_kind.items():
                add(method, f"hit rate@{CUTOFF}, {kind}", found.hit_rate)
                add(method, f"MRR, {kind}", found.mrr)
        for method, folder in folders.items():
            print(f"{method}, seed {seed}: training", flush=True)
            of_model = train_on(folder, seeded, f"{method}, seed {seed}", workdir)
            for metric in METRICS:
                add(method, metric, of_model[metric])
    return numbers, pairs


def vectors_of(
    method: Method | Literal["given"], sources: Sources, timelines: Timelines, workdir: Path
) -> Path:
    """The prepared folder with a method's vectors. It is made if the workdir lacks it."""
    if method == GIVEN:
        return timelines.path
    config = sources.config
    folder = workdir / "vectors" / f"{method}-{config.pinsage.seed}"
    wanted = provenance(method, config, timelines)
    if made_by(folder) == wanted:
        return folder
    walks = workdir / "vectors" / f"walks-{config.pinsage.seed}.npz"
    vectors, more = make_vectors(method, sources, walks=walks)
    write_copy(timelines, folder, vectors, wanted, more)
    return folder


def train_on(folder: Path, config: Config, name: str, workdir: Path) -> dict[str, float]:
    """Train and measure a PinnerFormer on a prepared folder, if the workdir lacks it; its metrics by name."""
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, prepared=str(folder)))
    data = StudyData.open(config)
    key = cell_key(config, data_digest(data.timelines.manifest))
    cell = Cell(name, config, workdir / "cells" / key, {"retrieval"})
    if missing(cell):
        print(f"{name}: {finish(cell, data)}", flush=True)
    record = read_cell(cell)
    if record.failed:
        raise ValueError(f"{name}: {record.failed}")
    return record.numbers[MODEL]


def write_comparison(config: Config, numbers: Numbers, pairs: dict[str, int], workdir: Path) -> None:
    """Print the table; compare.json and compare.md."""
    summary: dict[str, Any] = {
        "name": config.name,
        "command": " ".join(["python -m pinnerformer_jax.compare_items", *sys.argv[1:]]),
        "pairs": pairs,
        "methods": {
            method: {metric: dataclasses.asdict(spread(values)) for metric, values in by_metric.items()}
            for method, by_metric in numbers.items()
        },
    }
    write_json(workdir / "compare.json", summary)
    page = markdown(summary)
    write_text(workdir / "compare.md", page)
    print(page)
    print(f"wrote {workdir / 'compare.json'} and {workdir / 'compare.md'}")


def markdown(summary: dict[str, Any]) -> str:
    """A table with a line a method."""
    metrics = list(dict.fromkeys(metric for of in summary["methods"].values() for metric in of))
    head = ["vectors", *(f"PinnerFormer {m}" if m in METRICS else m for m in metrics)]
    lines = [head, ["---"] * len(head)]
    lines += [[method, *(_cell(of.get(m)) for m in metrics)] for method, of in summary["methods"].items()]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in summary["pairs"].items())
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    title = f"# Item vectors: {summary['name']}\n\n    {summary['command']}"
    return f"{title}\n\nPairs of items: {counts}.\n\n{rows}\n"


def _cell(value: dict[str, Any] | None) -> str:
    if value is None or value["mean"] is None or np.isnan(value["mean"]):
        return ""
    text = f"{value['mean']:.4f}"
    return f"{text} ± {value['deviation']:.4f}" if value["deviation"] else text


def _seeded(config: Config, seed: int) -> Config:
    """The config with this seed for vectors and training, counted from its own."""
    return dataclasses.replace(
        config,
        pinsage=dataclasses.replace(config.pinsage, seed=config.pinsage.seed + seed),
        training=dataclasses.replace(config.training, seed=config.training.seed + seed),
    )
