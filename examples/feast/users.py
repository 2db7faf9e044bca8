"""The user snapshot of the daily job as a Feast source.

    SNAPSHOTS=/path/to/snapshots feast apply
    SNAPSHOTS=/path/to/snapshots feast materialize-incremental 2026-11-25T00:00:00

Run both after each daily job. Feast reads a copy, data/users.parquet, which apply makes anew of the state
that is served at that moment, for two reasons: Feast has no float16, so that the vectors are cast to
float32 (exactly); and its file store takes the folders model_version=.../ds=... of the snapshot for columns.
"""

import datetime
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int32, String

SNAPSHOTS = Path(os.environ["SNAPSHOTS"])
COPY = Path(__file__).parent / "data" / "users.parquet"


def copy_snapshot() -> pa.DataType:
    """Write the copy; the type of user ids."""
    state = (SNAPSHOTS / "CURRENT").read_text(encoding="utf-8").strip()
    users = pq.read_table(SNAPSHOTS / state / "users.parquet", partitioning=None)
    vectors = users["embedding"].combine_chunks()
    numbers = pa.array(vectors.flatten().to_numpy().astype("float32"))
    offsets = pa.array(range(0, len(numbers) + 1, vectors.type.list_size), pa.int32())
    row = users.schema.get_field_index("embedding")
    users = users.set_column(row, "embedding", pa.ListArray.from_arrays(offsets, numbers))
    COPY.parent.mkdir(exist_ok=True)
    new = COPY.with_suffix(".new")
    pq.write_table(users, new)
    new.replace(COPY)
    return users.schema.field("user_id").type


user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING if pa.types.is_string(copy_snapshot()) else ValueType.INT64,
)

source = FileSource(
    name="user_snapshot",
    path=str(COPY.resolve()),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)

user_vectors = FeatureView(
    name="user_vectors",
    entities=[user],
    ttl=datetime.timedelta(0),  # a vector holds until the user's next event
    schema=[
        Field(name="embedding", dtype=Array(Float32)),
        Field(name="n_events", dtype=Int32),
        Field(name="model_version", dtype=String),
    ],
    source=source,
)
