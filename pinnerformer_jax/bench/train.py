"""The training loop from prepared timelines to checkpoint: users a second, and time waiting for input."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.bench.input import ITEMS, write_store
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.workload import make_features
from pinnerformer_jax.config import Config, PositiveRule
from pinnerformer_jax.data import catalog


def measure(config: Config, *, steps: int, prepared: str | None = None) -> dict[str, Any]:
    """Train as train.py does, and read the metrics that it logged.

    Args:
        config: sizes.
        steps: of the training. The first fifth, in which files are read for the first time, is not counted.
        prepared: prepared folder, made with this config; None: a temporary one of 20,000 users with 200
            events, and 100,000 items.

    Raises:
        ValueError: a package that training needs is not installed.
    """
    try:
        return _train(config, steps, prepared)
    except ImportError as error:
        raise ValueError(f"the training loop needs {error.name}, which is not installed") from error


def _train(config: Config, steps: int, prepared: str | None) -> dict[str, Any]:
    from pinnerformer_jax.training.loop import open_run, train

    with tempfile.TemporaryDirectory() as folder:
        if prepared is None:
            prepared = str(Path(folder) / "prepared")
            data = dataclasses.replace(config.data, positives=(PositiveRule(min_duration=10.0),))
            config = dataclasses.replace(config, data=data)
            write_store(Path(prepared))
            _write_catalog(catalog.catalog_path(prepared))
        data = dataclasses.replace(config.data, prepared=prepared)
        every = max(steps // 5, 1)
        training = dataclasses.replace(config.training, steps=steps, log_every=every, checkpoint_every=steps)
        config = dataclasses.replace(config, data=data, training=training)
        started = time.perf_counter()
        train(*open_run(config, Path(folder) / "run"))
        seconds = time.perf_counter() - started
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "users_per_second" in line]
    counted = [line for line in logged if line["step"] > every] or logged
    means = {
        name: sum(line[name] for line in counted) / len(counted)
        for name in ("users_per_second", "tokens_per_second", "input_wait_share", "loss")
    }
    return {"steps": steps, "batch_size": config.training.batch_size, "seconds_in_all": seconds, **means}


def _write_catalog(path: Path) -> None:
    """Write a catalogue of random unit vectors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir(parents=True)
    np.save(path / catalog.FEATURES, make_features(ITEMS))
    text, flags = pa.nulls(ITEMS, pa.string()), pa.array(np.ones(ITEMS, bool))
    columns = {"item_id": pa.array(np.arange(ITEMS)), "title": text, "topic": text}
    pq.write_table(pa.table(columns | {"trained": flags, "reachable": flags}), path / catalog.ITEMS)


def show(figures: dict[str, Any]) -> None:
    """Print one line."""
    table(
        f"Training, {figures['steps']} steps of {figures['batch_size']} users",
        ("users/s", "tokens/s", "waiting for input", "loss", "s in all"),
        [
            [
                figures["users_per_second"],
                figures["tokens_per_second"],
                f"{figures['input_wait_share']:.1%}",
                figures["loss"],
                figures["seconds_in_all"],
            ]
        ],
    )
