"""Decimal, boolean and date ids through every verb: each comes out as it went in."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from logs import write_parquet

from pinnerformer_jax import embed, ingest, publish_tfds, recommend, train
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.serving import bulk
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.shop_rules import ShopRules
from pinnerformer_jax.serving.stores import open_store

pytestmark = pytest.mark.slow  # a train step compiles

START, TRAINED = 1_700_006_400, 20  # a midnight; days
CONFIG = """
from pinnerformer_jax.config import *
config = Config(
    data=DataConfig(events=({log!r},), prepared={prepared!r}, evaluation_share=0.0, validation_share=0.0,
                    evaluation_days=2.0, memory_limit="500MB", shards=2),
    items=ItemsConfig(table={items!r}, vector="vector", title="title"),
    model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=8, item_hidden=16),
    objective=ObjectiveConfig(positions=4, random_negatives=8, in_batch_negatives=8, sketch_width=256),
    training=TrainingConfig(batch_size=8, steps=2, future_events=16, checkpoint_every=2),
)
"""
KINDS = {
    "decimal": (pa.decimal128(38, 2), [Decimal(f"-{10**30 + k}.{25 * (k % 4):02d}") for k in range(20)]),
    "boolean": (pa.bool_(), [False, True]),
    "date": (pa.date32(), [datetime.date(2020, 2, 20 + k) for k in range(9)]),
}


def events(ids, first, last):
    rng = np.random.default_rng(first)
    return [
        {
            "user": user,
            "item": ids[rng.integers(len(ids))],
            "time": START + day * DAY + int(rng.integers(DAY)),
        }
        for day in range(first, last)
        for user in ids
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_this_kind_work_in_every_verb(tmp_path, monkeypatch, capsys, kind):
    for verb in (embed, train):
        monkeypatch.setattr(verb, "set_up_process", lambda: None)
    of_kind, ids = KINDS[kind]
    types = {"user": of_kind, "item": of_kind}
    write_parquet(tmp_path / "log.parquet", events(ids, 0, TRAINED), **types)
    later = write_parquet(tmp_path / "later.parquet", events(ids, TRAINED, TRAINED + 1), **types)
    rng = np.random.default_rng(0)
    table = [{"item": id_, "title": f"Item {id_}", "vector": rng.normal(size=4).tolist()} for id_ in ids]
    write_parquet(tmp_path / "items.parquet", table, item=of_kind, vector=pa.list_(pa.float32()))
    names = {name: str(tmp_path / file) for name, file in
             (("log", "log.parquet"), ("items", "items.parquet"), ("prepared", "prepared"))}  # fmt: skip
    (tmp_path / "config.py").write_text(CONFIG.format(**names))
    workdir, snapshots, url = (str(tmp_path / name) for name in ("run", "snapshots", "store"))
    where = ["--workdir", workdir, "--snapshots", snapshots, "--store", f"lmdb:{url}"]

    ingest.main(["--config", str(tmp_path / "config.py")])
    assert train.main(["--config", str(tmp_path / "config.py"), "--workdir", workdir]) == 0
    first = datetime.datetime.fromtimestamp(START, datetime.UTC).date()
    for day, more in ((TRAINED - 1, []), (TRAINED, ["--events", later])):
        assert embed.main([*where, "--date", str(first + datetime.timedelta(day)), *more]) == 0
    for store in (None, open_store(f"lmdb:{url}")):
        recommender = Recommender.open(tmp_path / "snapshots", store)
        for user in ids:
            found = recommender.recommend(user, 3)
            assert not found.cold
            assert {item.id for item in found.items} <= set(ids)
            assert all(item.title == f"Item {item.id}" for item in found.items)
        recommender.rules = ShopRules(block=ids[:1])
        for suffix in bulk.FORMATS:
            out = tmp_path / f"recs{suffix}"
            assert bulk.write_recommendations(recommender, None, 3, out, exclude_seen=False).users == len(ids)
        table = pq.read_table(tmp_path / "recs.parquet")
        assert table["user_id"].unique().to_pylist() == sorted(ids)
        alone = Recommender.open(tmp_path / "snapshots", store, keep_events=False)
        alone.rules = recommender.rules
        for user in ids:
            wanted = [item.id for item in recommender.recommend(user, 3).items]
            assert table.filter(pc.equal(table["user_id"], user))["item_id"].to_pylist() == wanted
            unseen = recommender.recommend(user, 9, exclude_seen=True)
            assert alone.recommend(user, 9, exclude_seen=True) == unseen
    vectors = open_store(f"lmdb:{url}").of(found.model_version)
    assert not np.array_equal(vectors.get(ids[0]), vectors.get(ids[1]))
    if kind == "decimal":
        assert np.array_equal(vectors.get(Decimal(str(ids[0]) + "0")), vectors.get(ids[0]))

    capsys.readouterr()
    text = str(ids[0]).lower()
    asked = ["--snapshots", snapshots, f"--user={text}", "-k", "2"]
    assert recommend.main(asked) == 0
    assert f"user {text}: by " in capsys.readouterr().out
    (tmp_path / "gone.txt").write_text(f"{text}\n")
    again = ["--date", str(first + datetime.timedelta(TRAINED)), "--events", later]
    assert embed.main([*where, *again, "--tombstones", str(tmp_path / "gone.txt"), "--strict"]) == 0
    assert "no data" not in capsys.readouterr().out
    for more in ([], ["--store", f"lmdb:{url}"]):
        assert recommend.main([*asked, *more]) == 0
        assert "no vector, so the most popular items" in capsys.readouterr().out
    assert vectors.get(ids[0]) is None
    assert vectors.get(ids[1]) is not None

    publish_tfds.main(["--prepared", names["prepared"], "--data-dir", str(tmp_path / "tfds")])
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(next((tmp_path / "tfds").rglob("dataset_info.json")).parent)
    examples = list(builder.as_data_source(split="train"))
    texts = {str(id_).lower() for id_ in ids}
    assert {np.asarray(one["user_id"]).item().decode() for one in examples} == texts
    assert {np.asarray(name).item().decode() for one in examples for name in one["item"]} <= texts
