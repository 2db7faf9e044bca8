"""Parquet files that are mapped when a folder is opened and read later: the bytes stay those of the opening,
also if the path comes to name another file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def map_file(path: Path) -> np.ndarray:
    """uint8 [bytes]: a file that is not empty, memory-mapped."""
    return np.memmap(path, mode="r")


def read_column(mapped: np.ndarray, name: str) -> pa.Array:
    """A column of a Parquet file that `map_file` mapped, in one chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(mapped)))
    # No threads: one could let go of the bytes, which are Python's, when Python has ended, which aborts.
    return file.read(columns=[name], use_threads=False)[name].combine_chunks()
