"""TFDS in: any TensorFlow Datasets data set, by name, as one Parquet file that ingest reads like any other.

Columns are the features. A feature inside another is named outer_inner; text is UTF-8 (bytes that
are not are kept as \\xNN); class labels are their names, null for no label; one-dimensional features
are lists. Features of more dimensions (images, nested data sets) are left out with a note.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from tqdm import tqdm

from pinnerformer_jax.files import atomic_path
from pinnerformer_jax.ingestion.tfds_prepare import prepare

ROWS = 16_384
"""Rows of a row group; so many are in memory at a time."""


class _Column(NamedTuple):
    key: str  # as TFDS stores it: outer/inner
    feature: Any
    type: pa.DataType
    convert: Callable[[Any], Any]  # one example's value -> what Arrow takes


def export(name: str, split: str, folder: Path) -> Path:
    """Write the examples of a TFDS data set to a Parquet file; download and prepare it first if need be.

    Args:
        name: TFDS's name, such as `movielens/1m-ratings`. It is looked for, and prepared, in
            TFDS_DATA_DIR (default ~/tensorflow_datasets).
        split: TFDS's split, such as `train` or `train[:10%]`; empty: all splits.
        folder: where to write.

    Returns:
        The path of the file.

    Raises:
        ValueError: no such data set or split, or one that only TensorFlow can read.
        RuntimeError: it could not be downloaded and prepared.
    """
    builder = _open(name)
    columns = list(_columns(name, builder.info.features))
    if not columns:
        raise ValueError(f"tfds:{name}: none of its features is a number, a text or a list of them")
    source = _source(name, builder, split)
    wanted = tfds.features.FeaturesDict({column.key: column.feature for column in columns})

    path = folder / (quote(f"{name}-{split or 'all'}".replace("/", "-"), safe="") + ".parquet")
    schema = pa.schema([(column.key.replace("/", "_"), column.type) for column in columns])
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
        tqdm(total=len(source), desc=f"tfds:{name}", unit=" rows", unit_scale=True) as progress,
    ):
        for start in range(0, len(source), ROWS):
            records = source.__getitems__(range(start, min(start + ROWS, len(source))))
            examples: list[Any] = [wanted.deserialize_example_np(record) for record in records]
            arrays = [
                pa.array([column.convert(example[column.key]) for example in examples], column.type)
                for column in columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            progress.update(len(records))
    return path


def _open(name: str) -> tfds.core.DatasetBuilder:
    # TFDS imports its older data sets at the first unknown name, but gives up at the first package
    # that lacks an optional dependency; these are the ones with tables in them.
    for package in ("ranking", "recommendation", "structured"):
        with suppress(ImportError):
            importlib.import_module(f"tensorflow_datasets.{package}")
    try:
        builder = tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(re.split("[/:]", name)[0], known)
        hint = f"did you mean {' or '.join(near)}?" if near else "see tensorflow.org/datasets/catalog"
        raise ValueError(
            f"tfds:{name}: no such data set, and none prepared in TFDS_DATA_DIR; {hint}"
        ) from None
    except (ValueError, RuntimeError, ImportError) as error:  # config, version or namespace; TFDS says which
        raise ValueError(f"tfds:{name}: {error}") from error
    if not builder.is_prepared():
        try:
            prepare(builder)
        except Exception as error:  # the data set's own code, which may raise anything
            raise RuntimeError(
                f"tfds:{name} could not be prepared in {builder.data_dir}: {error!r}. This needs the "
                "network, once. Where there is none, or where the data set's parser needs TensorFlow, run "
                f"`tfds build {name} --file_format=array_record` elsewhere and copy that folder here"
            ) from error
    return builder


def _source(name: str, builder: tfds.core.DatasetBuilder, split: str) -> Any:
    """Serialised examples by number."""
    try:
        return builder.as_data_source(
            split or "all", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except NotImplementedError:
        raise ValueError(
            f"tfds:{name}: {builder.data_dir} holds {builder.info.file_format.value} files, which only "
            "TensorFlow reads; delete that folder, or set TFDS_DATA_DIR to another, and it will be "
            "prepared anew as array_record"
        ) from None
    except ValueError as error:  # TFDS names the splits there are
        raise ValueError(f"tfds:{name}:{split}: {error}") from None


def _columns(name: str, features: Any, outer: str = "") -> Iterator[_Column]:
    """The columns of a dict of features, in order, depth first."""
    for inner, feature in features.items():
        key = outer + inner
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from _columns(name, feature, f"{key}/")
        elif kind := _kind(feature):
            yield _Column(key, feature, *kind)
        else:
            print(f"tfds:{name}: {key} is left out: it is no number, text or list of these")


def _kind(feature: Any) -> tuple[pa.DataType, Callable[[Any], Any]] | None:
    """Arrow's type of a feature's column, and what turns a value into it; None if it fits no column."""
    info = feature.get_tensor_info()
    if isinstance(feature, tfds.features.Dataset) or isinstance(info, dict) or len(info.shape) > 1:
        return None
    element = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
    kind = np.dtype(info.np_dtype).kind
    if isinstance(element, tfds.features.ClassLabel):
        arrow, convert = pa.string(), functools.partial(_label, element)
    elif kind == "O":
        arrow, convert = pa.string(), _text
    elif kind in "biuf":
        arrow, convert = pa.from_numpy_dtype(info.np_dtype), lambda value: value
    else:
        return None
    if info.shape:
        return pa.list_(arrow), lambda values: [convert(value) for value in values]
    return arrow, convert


def _label(feature: Any, value: int | np.integer) -> str | None:
    return feature.int2str(int(value)) if value >= 0 else None


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
