"""The folder that export writes: both towers, the catalogue's vectors, contract.json, golden.npz."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from pinnerformer_jax import __version__
from pinnerformer_jax.data.catalog import FEATURES, ITEMS, catalog_path
from pinnerformer_jax.data.contracts import EPOCH
from pinnerformer_jax.data.windows import histories_at_split
from pinnerformer_jax.export.formats import (
    FORMATS,
    PLATFORMS,
    SUFFIXES,
    Format,
    Program,
    check_packages,
    read,
    write,
)
from pinnerformer_jax.export.towers import Tower, in_float32, structure, towers
from pinnerformer_jax.files import atomic_folder, check_replaceable, facts_of, write_json
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import read_record

CONTRACT, GOLDEN = "contract.json", "golden.npz"
GOLDEN_ROWS = 64
"""At most so many users and items."""
TOLERANCE = 1e-5
"""Largest difference of a number of a unit vector between this package and a file."""
SIX_MONTHS = datetime.timedelta(days=182)


def export(
    workdir: str | Path,
    out: str | Path,
    *,
    formats: Sequence[Format] = FORMATS,
    checkpoint: Literal["best", "last"] = "best",
    prepared: str | Path | None = None,
) -> dict[str, float]:
    """Write both towers and what serving them takes.

    Args:
        workdir: of a trained run.
        out: folder to write or to replace.
        formats: of the towers.
        checkpoint: the best or the last.
        prepared: where the run's prepared folder is now; None: where the run found it.

    Returns:
        By the name of a tower's file, its largest difference from golden.npz.

    Raises:
        FileNotFoundError: no run, checkpoint or prepared data.
        ValueError: `out` is something else, a package is missing, or a file does not give what the model
            gives.
    """
    workdir, out = Path(workdir), Path(out)
    check_replaceable(out, CONTRACT, "export")
    check_packages(formats)
    model, sizes = TrainedModel.load(workdir, checkpoint, prepared), read_record(workdir).sizes
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.step(checkpoint)
    both = towers(model.config, sizes, model.params)
    golden = golden_rows(model, sizes, both)
    differences = {}
    with atomic_folder(out) as folder:
        for tower in both:
            for name in formats:
                file = folder / (tower.name + SUFFIXES[name])
                write(tower, name, file)
                differences[file.name] = difference(tower, read(tower, name, file), golden, file.name)
        catalog = catalog_path(model.timelines.path)
        shutil.copyfile(catalog / FEATURES, folder / "item_vectors.npy")
        shutil.copyfile(catalog / ITEMS, folder / "items.parquet")
        model.timelines.check()
        np.savez(folder / GOLDEN, allow_pickle=False, **golden)
        contract = contract_of(model, both, formats) | {"step": step, "differences": differences}
        write_json(folder / CONTRACT, contract | {"files": facts_of(folder)})
    return differences


def golden_rows(model: TrainedModel, sizes: Sizes, both: Sequence[Tower]) -> dict[str, np.ndarray]:
    """Inputs of users and items of the training, and the vectors that this package makes of them.

    Args:
        model: that is exported.
        sizes: of its run.
        both: its towers.

    Returns:
        Arrays by name: TOWER.INPUT and TOWER.OUTPUT.
    """
    length = model.config.model.max_length
    users = np.flatnonzero(np.concatenate([shard.cut for shard in model.timelines.shards]))
    history, lengths = histories_at_split(model.timelines, _spread(users), length)
    real = np.arange(length)[None, :, None] < lengths[:, None, None]
    items, vectors = _spread(np.flatnonzero(model.catalog.reachable)), np.asarray(model.catalog.features)
    known = {f"user_tower.{name}": column for name, column in history._asdict().items()} | {
        "user_tower.length": lengths,
        "user_tower.item_vectors": vectors[history.item] * real,
        "item_tower.item_vectors": vectors[items],
        "item_tower.item": items,
    }
    golden = {}
    for tower in both:
        names = [(f"{tower.name}.{i.name}", i.dtype) for i in tower.inputs]
        golden |= {name: known[name].astype(dtype) for name, dtype in names}
    with jax.default_matmul_precision("float32"):
        embedder = Embedder(structure(in_float32(model.config), sizes), model.params, vectors)
        golden["user_tower.user_vector"] = embedder.users(history, lengths)
        golden["item_tower.item_vector"] = embedder.items()[items]
    return golden


def _spread(numbers: np.ndarray) -> np.ndarray:
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, GOLDEN_ROWS).astype(int))]


def difference(tower: Tower, program: Program, golden: dict[str, np.ndarray], file: str) -> float:
    """Largest difference between what a file gives and golden.npz, for all rows in one batch and for one row.

    Args:
        tower: that was written.
        program: as it was read back.
        golden: see `golden_rows`.
        file: its name, for the message.

    Raises:
        ValueError: the difference is larger than `TOLERANCE`.
    """
    inputs = {i.name: golden[f"{tower.name}.{i.name}"] for i in tower.inputs}
    wanted = golden[f"{tower.name}.{tower.output}"]
    found = 0.0
    for rows in (len(wanted), 1):
        given = program({name: value[:rows] for name, value in inputs.items()})
        found = float(np.maximum(found, np.abs(given - wanted[:rows]).max()))  # NaN stays
    if not found <= TOLERANCE:
        raise ValueError(
            f"{file} gives other vectors than the model: a number differs by {found:g}, and {TOLERANCE:g} is "
            "allowed; nothing was written. Leave this format out with --formats"
        )
    return found


def contract_of(model: TrainedModel, both: Sequence[Tower], formats: Sequence[Format]) -> dict[str, Any]:
    """What contract.json says of a model, whatever the files.

    Args:
        model: that is exported.
        both: its towers.
        formats: of the files.
    """
    config, manifest = model.config, model.timelines.manifest
    today = datetime.datetime.now(datetime.UTC).date()
    contract: dict[str, Any] = {
        "format": 1,
        "model_version": model.version,
        "run": config.name,
        "made_with": {"pinnerformer_jax": __version__, "jax": jax.__version__, "date": str(today)},
        "dtype": "float32; in training the products were " + config.model.compute_dtype,
    }
    for tower in both:
        files = {name: tower.name + SUFFIXES[name] for name in formats}
        contract[tower.name] = {"files": files, **tower.to_json()}
    contract |= {
        "history": {
            "events": f"the newest {config.model.max_length} of a user, oldest first, without those whose "
            "item has no vector and, unless sequence_actions is empty, those of other actions",
            "sequence_actions": config.data.sequence_actions,
            "max_length": config.model.max_length,
            "padding": "at the tail, with the `padding` of each input",
            "served_position": "length - 1, the newest event; a user without events has no vector",
            "epoch": EPOCH,
            "time": "seconds since 1970-01-01 UTC, minus epoch",
        },
        "actions": manifest.actions,
        "surfaces": manifest.surfaces,
        "items": {
            "count": model.catalog.items,
            "dim": int(model.catalog.features.shape[1]),
            "vectors": "item_vectors.npy",
            "ids": "items.parquet, in the same order",
            "new": "an item that came later needs a vector of the same making, of length 1",
        },
        "score": {
            "of_vectors": "inner product of a user's and an item's vector",
            "served": model.priors.formula,
            "priors": dataclasses.asdict(model.priors),
            "counts": "of positive events, each 2 ** (-age / half-life). own: the user's; everybody's: "
            "the sum over all users, times popularity_share. log is the natural one",
            "hide_seen": f"true: leave out the items of the user's newest {model.kept_events:,} events",
            "positives": [dataclasses.asdict(rule) for rule in config.data.positives],
        },
        "golden": {"file": GOLDEN, "arrays": "TOWER.INPUT, TOWER.OUTPUT", "tolerance": TOLERANCE},
    }
    if "jax" in formats:
        contract["jax_export"] = {
            "platforms": PLATFORMS,
            "loads_until": str(today + SIX_MONTHS),
            "note": "JAX promises to load such a file for six months, in newer releases too",
        }
    return contract
