"""Timelines of the users to embed."""

import pyarrow as pa
from event_world import NONE, SECOND, START, load, row

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.serving import event_store
from pinnerformer_jax.serving.histories import write_histories


def test_who_is_embedded(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
    load(connection, tmp_path, [row(), row(user=3)])
    event_store.merge_events(connection, NONE, 9)

    def chosen(requested, least=1):
        work = tmp_path / f"timelines-{len(list(tmp_path.glob('timelines-*')))}"
        events = event_store.events_to_embed(connection, requested, 9)
        items = Catalog.of(timelines).id_column
        return write_histories(events, items, timelines.manifest, least, 9, work)

    found = chosen(NONE)
    assert found.user_ids.to_pylist() == [3, 7]
    assert found.count.tolist() == [1, 6]
    [events] = found.timelines.shards
    assert found.newest.tolist() == [(START + 9) * SECOND] * 2
    assert events.item.tolist() == [0, 0, 1, 2, 0, 1, 0]
    assert events.action.tolist() == [1, 1, 2, 1, 2, 1, 1]
    assert events.surface.tolist() == [1] * 7
    assert events.time.tolist() == [START + k for k in (9, 0, 1, 2, 3, 4, 9)]
    assert chosen(pa.array([5, 42]), 2).user_ids.to_pylist() == [5, 7]
    assert chosen(None).user_ids.to_pylist() == [3, 5, 7]
    assert chosen(NONE, 7).user_ids.to_pylist() == []
