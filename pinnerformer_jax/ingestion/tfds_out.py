"""TFDS out: a prepared folder as a TFDS data set of ArrayRecord files, one example a user.

    item       text [T], ids as they came in
    action, surface   uint8 [T], ids of the names in the metadata; 0 is unknown
    time       int64 [T], seconds since 1970, ascending
    duration   float32 [T], seconds
    user_id    text

Ids are text, so that the data set can be read without the catalogue. Splits are the roles train,
validation and evaluation, those that have users; users keep the order they have in the prepared
folder. The metadata holds the names of actions and surfaces, the split time and the end of the
evaluation window. To read it, without this package and without TensorFlow:

    tfds.builder_from_directory(PATH).as_data_source("train")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import COLUMNS, ROLES, Timelines
from pinnerformer_jax.ingestion.tfds_prepare import prepare


def publish(
    prepared: Path, data_dir: Path, name: str = "pinnerformer_timelines", version: str = "1.0.0"
) -> Path:
    """Publish a prepared folder as the TFDS data set DATA_DIR/NAME/VERSION.

    Args:
        prepared: what ingest wrote.
        data_dir: root folder of TFDS data sets.
        name: of the data set; lower case letters, digits and underscores.
        version: of the data set; three numbers.

    Returns:
        The folder of the data set.

    Raises:
        FileExistsError: it was published already.
        FileNotFoundError: nothing is prepared.
        ValueError: the prepared folder is damaged, or the name or version is not one TFDS takes.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"name = {name!r}: lower case letters, digits and underscores only, a letter first")
    builder = _Builder(Timelines.open(prepared), name, version, data_dir)
    if builder.is_prepared():
        raise FileExistsError(f"{builder.data_dir}: published already; name another version")
    prepare(builder)
    return Path(builder.data_dir)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What TFDS runs to write the data set; readers do not need it."""

    def __init__(self, timelines: Timelines, name: str, version: str, data_dir: Path) -> None:
        self.timelines, self.name, self.VERSION = timelines, name, tfds.core.Version(version)
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        manifest = self.timelines.manifest
        dtypes = COLUMNS | {"item": np.str_}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Timelines of users: what each did, oldest first. Actions and surfaces are named in "
            "the metadata, 0 is unknown; times are seconds since 1970, durations seconds.",
            features=tfds.features.FeaturesDict(
                {"user_id": tfds.features.Text()}
                | {
                    column: tfds.features.Tensor(shape=(None,), dtype=dtype)
                    for column, dtype in dtypes.items()
                }
            ),
            metadata=tfds.core.MetadataDict(
                actions=manifest.actions,
                surfaces=manifest.surfaces,
                split_time=manifest.split_time,
                evaluation_end=manifest.evaluation_end,
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing to download
        return {
            split: self._generate_examples(users)
            for split, role in ROLES.items()
            if len(users := self.timelines.with_role(role))
        }

    def _generate_examples(self, users: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        item_ids = Catalog.of(self.timelines).id_column.cast(pa.large_string())
        for first, shard in self.timelines.by_shard():
            user_ids = shard.user_ids.cast(pa.large_string())
            for user in users[(users >= first) & (users < first + shard.users)] - first:
                rows = slice(*shard.offsets[user : user + 2])
                columns = {column: getattr(shard, column)[rows] for column in COLUMNS}
                item = item_ids.take(columns["item"]).to_pylist()
                yield int(first + user), columns | {"user_id": user_ids[user].as_py(), "item": item}
        self.timelines.check()
