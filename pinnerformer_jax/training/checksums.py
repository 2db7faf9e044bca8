"""Checksums of what a checkpoint holds: of the arrays themselves, whatever files they are kept in, and of the
metrics."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pinnerformer_jax.files import read_checked_json


def checksum(tree: Any, start: bytes = b"") -> str:
    """SHA-256, in hex, of the names, types, shapes and numbers of a pytree of arrays.

    Args:
        tree: on the host or on devices.
        start: bytes that come first.
    """
    digest = hashlib.sha256(start)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    return digest.hexdigest()


def check_metrics(folder: Path) -> None:
    """Verify the metrics of all checkpoints of a folder, which say which is the best.

    Raises:
        ValueError: one is damaged; the message names the file.
    """
    for file in sorted(folder.glob("*/metrics/metrics")):
        step = file.parent.parent
        if step.name.isdigit():
            cure = f"delete {step} to go on without this checkpoint"
            with contextlib.suppress(FileNotFoundError):  # a training has just removed it
                read_checked_json(file, "the metrics of a checkpoint", cure)
