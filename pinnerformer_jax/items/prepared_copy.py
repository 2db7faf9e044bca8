"""A copy of a prepared folder with other item vectors.

The copy hard-links the timelines where the disk allows. It replaces `features.npy` and the flag `reachable`
of the catalogue. `vectors.json` says how the vectors were made. `model.npz` is the model, if one made them;
`text.npz` gives more of them by text, if `--method svd` made them.
The manifest lists all of these files with their checksums. The digest of the data, which a run checks,
therefore changes with the method, its settings and the vectors.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.catalog import FEATURES, ITEMS, MODEL, TEXT, VECTORS, catalog_path
from pinnerformer_jax.data.timelines import Timelines, read_manifest, write_manifest
from pinnerformer_jax.files import atomic_folder, check_contents, check_not_read, facts_of, sha256, write_json
from pinnerformer_jax.ingestion.catalog_writer import write_text
from pinnerformer_jax.ingestion.item_vectors import Built
from pinnerformer_jax.items.trained import Trained, save
from pinnerformer_jax.training.run_record import data_digest

_NEW = tuple(f"{catalog_path('')}/{name}" for name in (FEATURES, ITEMS, TEXT, VECTORS, MODEL))


def write_copy(
    timelines: Timelines,
    out: Path,
    vectors: Float32[np.ndarray, "n d"],
    made_by: dict[str, Any],
    more: Trained | Built | None = None,
) -> None:
    """Write the folder `out`.

    Args:
        timelines: the prepared folder to copy.
        out: to write; an older prepared folder there is replaced.
        vectors: of its items, unit rows or zero.
        made_by: for vectors.json.
        more: what gives more of them, for model.npz or text.npz.

    Raises:
        ValueError: `out` is the folder itself, or holds something else.
    """
    check_out(timelines, out)
    with atomic_folder(out.resolve()) as folder:
        fill_copy(timelines, folder, vectors, made_by, more)


def fill_copy(
    timelines: Timelines,
    folder: Path,
    vectors: Float32[np.ndarray, "n d"],
    made_by: dict[str, Any],
    more: Trained | Built | None = None,
) -> None:
    """Write the copy's files into `folder`, which is empty; the other arguments are those of `write_copy`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = timelines.path.resolve()
    kept = [name for name in timelines.manifest.files if name not in _NEW]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link(source / name, folder / name)
    catalog = catalog_path(folder)
    catalog.mkdir(exist_ok=True)
    reachable = vectors.any(axis=1)
    items = pq.read_table(catalog_path(source) / ITEMS, partitioning=None)
    column = items.column_names.index("reachable")
    items = items.set_column(column, items.schema.field(column), pa.array(reachable))
    np.save(catalog / FEATURES, vectors.astype(np.float16))
    pq.write_table(items, catalog / ITEMS)
    write_json(catalog / VECTORS, made_by)
    if isinstance(more, Trained):
        save(catalog / MODEL, more)
    elif more:
        write_text(catalog / TEXT, more)
    files = {name: timelines.manifest.files[name] for name in kept}
    files |= facts_of(folder, [name for name in _NEW if (folder / name).is_file()])
    counts = timelines.manifest.counts | {"unreachable_items": int((~reachable).sum())}
    manifest = dataclasses.replace(timelines.manifest, files=dict(sorted(files.items())), counts=counts)
    write_manifest(folder, manifest)
    timelines.check()  # the files that were linked are those of its manifest


def check_out(timelines: Timelines, out: Path) -> None:
    """Whether `write_copy` may write there.

    Raises:
        ValueError: it is the prepared folder itself, or another kind of folder; or a process is reading it.
    """
    out = out.resolve()
    if out == timelines.path.resolve() or (out.exists() and not (out / "manifest.json").is_file()):
        raise ValueError(
            f"--out {out} is data.prepared itself, or a folder that is not a prepared one: name another"
        )
    check_not_read(out)


def provenance(method: str, config: Config, timelines: Timelines) -> dict[str, Any]:
    """Everything that decides the vectors, for vectors.json."""
    of_method = to_dict(config.pinsage) if method.startswith("pinsage") else {"seed": config.pinsage.seed}
    return {
        "method": method,
        "settings": of_method | {"dim": config.items.built_dim},
        "data": data_digest(timelines.manifest),
    }


def reused_provenance(made: dict[str, Any], old: Path) -> dict[str, Any]:
    """`provenance` of vectors that the model of an earlier folder makes: its settings and its checksum."""
    settings = (made_by(old) or {}).get("settings")
    return made | {"settings": settings, "model": sha256(catalog_path(old) / MODEL)}


def made_by(folder: Path) -> dict[str, Any] | None:
    """The provenance of the vectors that `write_copy` wrote to a folder; None: it did not write it."""
    file = catalog_path(folder) / VECTORS
    if not file.is_file():
        return None
    recorded = read_manifest(folder).files.get(str(file.relative_to(folder)))
    if recorded:
        check_contents(file, recorded["sha256"], f"delete {folder} and make the vectors again")
    return json.loads(file.read_text(encoding="utf-8"))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)
