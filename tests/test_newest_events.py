"""The newest events of prepared timelines, sorted as the engine would."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from event_world import SECOND, START
from prepared import ACTIONS, SURFACES, write_prepared

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.serving import newest_events
from pinnerformer_jax.serving.event_store import FACTS, ORDER
from pinnerformer_jax.serving.newest_events import NewestEvents


@pytest.mark.parametrize("at_once", [1, 20, 1 << 18])
@pytest.mark.parametrize("most", [3, 1000])
def test_as_the_engine_sorts(tmp_path, monkeypatch, at_once, most):
    monkeypatch.setattr(newest_events, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    users = {
        f"u{user}": [  # many events in one second, in any order
            (int(rng.integers(5)), int(rng.integers(3)), int(rng.integers(3)), START + int(rng.integers(6)),
             float(rng.integers(1, 99)) / 8)
            for _ in range(count)
        ]
        for user, count in enumerate([9, 1, 30, 2, 14, 5, 22])
    }  # fmt: skip
    catalog = Catalog.of(Timelines.open(write_prepared(tmp_path / "p", users, START + 9, items=5, shards=3)))
    end = START + 5
    everything = pa.Table.from_pylist(
        [
            {
                "user_id": user, "item_id": f"item-{item}", "action": ACTIONS[action],
                "surface": SURFACES[surface], "micros": time * SECOND, "duration": np.float32(duration),
            }
            for user, events in users.items()
            for item, action, surface, time, duration in sorted(
                (event for event in events if event[3] < end), key=lambda event: event[3]
            )[-most:]
        ]
    )  # fmt: skip
    with duckdb.connect() as connection:
        connection.register("everything", everything)
        wanted = connection.sql(f"SELECT {FACTS} FROM everything ORDER BY {ORDER}").to_arrow_table()
    found = NewestEvents(catalog, most, end * SECOND)
    assert pa.concat_tables(found.tables()).to_pylist() == wanted.cast(found.schema).to_pylist()
    assert found.later == sum(event[3] >= end for events in users.values() for event in events) > 0
