"""The record of a run, WORKDIR/config.json: its config, what the data decided, and the digest of the prepared
data; and whether another config or folder is still the same run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pinnerformer_jax.config import Config
from pinnerformer_jax.config.by_log import SHARES, fill
from pinnerformer_jax.config_files import differences, digest, from_dict, to_dict
from pinnerformer_jax.data.timelines import Manifest
from pinnerformer_jax.files import read_checked_json, write_checked_json
from pinnerformer_jax.model.towers import Sizes

_WHERE = ("data.events:", "data.prepared:", "data.memory_limit:", "items.table:")
"""Prefixes of lines of `differences`: settings that say where the data are, not what they are."""

_MAY_CHANGE = (
    *_WHERE,
    "name:",
    "evaluation.",
    "embedding.",
    "index.",
    "pinsage.",
    "training.log_every:",
    "training.checkpoint_every:",
    "training.patience:",
    "training.input_workers:",
    "training.wandb:",
    "training.mlflow:",
    "training.shard_items:",
    "items.without_events:",  # the digest of the data says whether they are the same
)
"""Likewise: settings that may differ when a run is resumed."""


class RunRecord(NamedTuple):
    """Config, sizes and data of a run, saved beside its checkpoints."""

    config: Config
    sizes: Sizes
    data: str  # digest of the prepared data


def data_digest(manifest: Manifest) -> str:
    """Digest of the prepared data. It changes with any byte of them, and not when the folder moves."""
    return digest(dataclasses.replace(manifest, config={}, counts={}))


def check_ingested(manifest: Manifest, config: Config) -> None:
    """Check that the data and items sections are those that the data were prepared with, except for the rules
    of positives, which each training may choose, and for shares of users that ingest chose by the log.

    Raises:
        ValueError: they differ. The message lists what differs.
    """
    if config.sizes_by_log:
        shares = {name: manifest.config["data"][name] for name in SHARES}
        config = dataclasses.replace(config, data=fill(config.data, shares))
    wanted, old = to_dict(config), to_dict(from_dict(manifest.config))  # with settings that are new since
    if "without_events" not in manifest.config.get("items", {}):  # such a folder has all items of its table
        old["items"]["without_events"] = wanted["items"]["without_events"]
    before, now = ({name: part[name] for name in manifest.config} for part in (old, wanted))
    changed = differences(before, now)
    changed = [line for line in changed if not line.startswith((*_WHERE, "data.positives:"))]
    if changed:
        raise ValueError(
            f"{config.data.prepared} was prepared with other settings; run python -m "
            "pinnerformer_jax.ingest again, or undo:\n  " + "\n  ".join(changed)
        )


def claim(workdir: Path, run: RunRecord) -> None:
    """Write the record of a run into its `workdir`. If the folder holds a checkpoint, it must be of the same
    run.

    Raises:
        ValueError: it holds a run of another config or other data. The message lists what differs.
    """
    if any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
        old = read_record(workdir)
        changed = forbidden_changes(old.config, run.config)
        if old.data == run.data and old.sizes != run.sizes:
            changed.append("the version of this package (an older one counted the positives in another way)")
        elif old.data != run.data:
            changed.append(f"prepared data: {old.data} -> {run.data} (ingest ran again with another result)")
        if changed:
            raise ValueError(
                f"{workdir} holds a run that this one does not continue; choose another --workdir, "
                "or undo:\n  " + "\n  ".join(changed)
            )
    if jax.process_index() != 0:
        return
    record = {"config": to_dict(run.config), "sizes": run.sizes._asdict(), "data": run.data}
    write_checked_json(_record_path(workdir), record | {"working_folder": str(Path.cwd())})


def forbidden_changes(old: Config, new: Config) -> list[str]:
    """Lines of `differences`: the settings that make it another run."""
    changed = differences(to_dict(old), to_dict(new))
    return [line for line in changed if not line.startswith(_MAY_CHANGE)]


def read_record(workdir: Path) -> RunRecord:
    """What `claim` wrote.

    Raises:
        FileNotFoundError: no run was started here.
        ValueError: the file is not whole, or of another version of the config.
    """
    file, values = _record_path(workdir), read_record_file(workdir)
    try:
        return RunRecord(from_dict(values["config"]), Sizes(**values["sizes"]), values["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not the record of a run: {error}") from error


def read_record_file(workdir: Path) -> dict[str, Any]:
    """`read_record`, as it is written: also "working_folder", below which relative paths are."""
    file = _record_path(workdir)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no run here; start one with python train.py --workdir {workdir}")
    return read_checked_json(
        file, "the record of a run", "restore it from a copy, or train in another --workdir"
    )


def _record_path(workdir: Path) -> Path:
    return workdir / "config.json"
