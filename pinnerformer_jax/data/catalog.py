"""The catalogue: every item, its feature vector, title and topic.

    PREPARED/catalog/
      items.parquet     item_id (as in the log), title, topic (text or null), trained, reachable
      features.npy      float16 [N, D_item], unit rows; zero where there is no vector
      text.npz          what gives further items such vectors by their text, if ingest built vectors with text
      vectors.json      how the vectors were made, if pinnerformer_jax.items made them
      model.npz         the PinSage that made them, if one did

Items of the training period come first: random negatives are drawn from rows 0 : trained. An item that
occurs in the evaluation window alone has a vector if the item table gives one or one is built from its
text; otherwise it is not reachable.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.data.mapped import map_file, read_column
from pinnerformer_jax.data.timelines import Timelines

if TYPE_CHECKING:
    import pyarrow as pa


ITEMS, FEATURES, TEXT = "items.parquet", "features.npy", "text.npz"
VECTORS, MODEL = "vectors.json", "model.npz"
"""Names of the catalogue's files."""


def catalog_path(prepared: str | Path) -> Path:
    """Folder of the catalogue of a prepared folder."""
    return Path(prepared) / "catalog"


@dataclass(frozen=True)
class Catalog:
    """Items by row number, memory-mapped."""

    timelines: Timelines  # of the same folder
    table: np.ndarray  # bytes of items.parquet
    features: np.ndarray  # float16 [N, D_item]
    trained: int  # rows 0 : trained have events up to the split
    reachable: np.ndarray  # bool [N] has a vector
    text: np.ndarray | None  # bytes of text.npz; None: vectors were given, or have no half of text

    @classmethod
    def open(cls, prepared: str | Path) -> Catalog:
        """Map the catalogue of a prepared folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file of the folder is missing, short or altered; names the file.
        """
        return cls.of(Timelines.open(prepared))

    @classmethod
    def of(cls, timelines: Timelines) -> Catalog:
        """Map the catalogue of an opened folder.

        Raises:
            ValueError: the folder has changed since it was opened.
        """
        path = catalog_path(timelines.path)
        table = map_file(path / ITEMS)
        features = np.load(path / FEATURES, mmap_mode="r", allow_pickle=False)
        text = map_file(path / TEXT) if (path / TEXT).is_file() else None
        timelines.check()
        trained, reachable = (read_column(table, name).to_numpy(False) for name in ("trained", "reachable"))
        return cls(timelines, table, features, int(trained.sum()), reachable, text)

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.features)

    @cached_property
    def id_column(self) -> pa.Array:
        """Ids as in the log, of the type that they have there."""
        return self._column("item_id")

    def to_arrow(self) -> pa.Table:
        """number, item_id, title and topic of each item."""
        import pyarrow as pa

        columns = {name: self._column(name) for name in ("item_id", "title", "topic")}
        return pa.table({"number": np.arange(self.items), **columns})

    @cached_property
    def item_ids(self) -> list[Any]:
        """Ids as in the log."""
        return self.id_column.to_pylist()

    @cached_property
    def titles(self) -> list[str]:
        """Titles; the id where there is none."""
        titles = self._column("title").to_pylist()
        return [str(i) if t is None else t for i, t in zip(self.item_ids, titles, strict=True)]

    @cached_property
    def topics(self) -> list[str | None]:
        """Topics as given."""
        return self._column("topic").to_pylist()

    @cached_property
    def text_arrays(self) -> dict[str, np.ndarray]:
        """Arrays of text.npz: word and vector of the `TextBasis`, and map, see `vectors_from_text`, if text
        tells of co-occurrence."""
        if self.text is None:
            return {}
        with np.load(io.BytesIO(self.text.tobytes()), allow_pickle=False) as stored:
            return dict(stored)

    def _column(self, name: str) -> pa.Array:
        return read_column(self.table, name)
