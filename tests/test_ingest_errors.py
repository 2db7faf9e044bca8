"""Logs and settings that ingest refuses, each with a message that names the fault."""

import pyarrow as pa
import pytest
from logs import given, make_events, write_items, write_parquet

from pinnerformer_jax.config import ColumnsConfig, PositiveRule
from pinnerformer_jax.ingestion.ingest import prepare


def quiet(text):
    assert text


def many_actions(tmp_path):
    rows = [row | {"action": f"a{k}"} for k, row in enumerate(make_events())]
    write_parquet(tmp_path / "log.parquet", rows)


def few_users(tmp_path):
    write_parquet(tmp_path / "log.parquet", [row for row in make_events() if row["user"] < "u003"])


def no_rows(tmp_path):
    kinds = {"user": pa.string(), "item": pa.string(), "time": pa.int64(), "duration": pa.float64()}
    write_parquet(tmp_path / "log.parquet", [], **kinds, action=pa.string(), surface=pa.string())


def header_only(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time,action,surface,duration\n")


def a_file_in_the_way(tmp_path):
    (tmp_path / "prepared").write_text("mine")


def a_folder_in_the_way(tmp_path):
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "thesis.tex").touch()


def damage(path):
    """Change the first page of a Parquet file."""
    data = bytearray(path.read_bytes())
    data[4:64] = bytes(byte ^ 255 for byte in data[4:64])
    path.write_bytes(data)


def damaged(tmp_path):
    write_parquet(tmp_path / "log.parquet", make_events())
    damage(tmp_path / "log.parquet")


def damaged_items(tmp_path):
    write_items(tmp_path / "items.parquet")
    damage(tmp_path / "items.parquet")


def other_items(tmp_path):
    write_items(tmp_path / "items.parquet", item=[f"x{k}" for k in range(15)])


@pytest.mark.parametrize(
    ("arrange", "data", "message"),
    [
        (None, {"events": ()}, "data.events is empty"),
        (None, {"events": ("log.json",)}, "data.events = 'log.json': no such file"),
        (no_rows, {}, "log.parquet is empty: it has no row"),
        (header_only, {"events": ("log.csv",)}, "log.csv is empty: it has no row"),
        (None, {"where": "duration > 1e6"}, "it has no row that meets data.where = 'duration > 1e6'"),
        (None, {"columns": ColumnsConfig(item="itemid")}, "data.columns.item = 'itemid'.*nearest is 'item'"),
        (None, {"sequence_actions": ("vew",), "positives": (PositiveRule(),)},
         r"data.sequence_actions: no action 'vew' in the log; it has \['view', 'like', 'save'\]"),
        (None, {"positives": (PositiveRule("repin"),)}, "data.positives: no action 'repin' in the log"),
        (None, {"positives": (PositiveRule(surface="web"),)}, "data.positives: no surface 'web' in the log"),
        (None, {"positives": (PositiveRule(min_duration=1e6),)}, "no event meets any rule of data.positives"),
        (None, {"evaluation_days": 60.0}, "data.evaluation_days = 60 is longer than the log, which"),
        (None, {"split_time": "2020-01-01"}, "data.split_time = '2020-01-01' is outside the log"),
        (None, {"split_time": "2024-06-01"}, "data.split_time = '2024-06-01' is outside the log"),
        (None, {"split_time": "last week"}, "data.split_time = 'last week': write an ISO time"),
        (None, {"min_user_events": 99}, "none of 40 users has data.min_user_events = 99 events up to"),
        (None, {"evaluation_share": 0.999, "validation_share": 0.0}, "no user is left to train: all 40 fall"),
        (few_users, {"evaluation_share": 0.001}, "none of 0 evaluation users .of 3. has an event after"),
        (many_actions, {}, "data.columns.action has 480 different values"),
        (None, {"prepared": ""}, "data.prepared is empty: name the folder"),
        (a_file_in_the_way, {}, "prepared' exists and is no prepared folder"),
        (a_folder_in_the_way, {}, "prepared' exists and is no prepared folder"),
        (None, {"memory_limit": "lots"}, "data.memory_limit = 'lots'"),
        (None, {"memory_limit": "5MB"}, "ran out of memory .data.memory_limit = 5MB. or of disk"),
        (None, {"time_zone": "Nowhere"}, "data.time_zone = 'Nowhere': no such zone"),
        (damaged, {}, "log.parquet cannot be read, it is damaged: .*; copy or write it again"),
        (damaged_items, {}, "items.parquet cannot be read, it is damaged: .*; copy or write it again"),
        (None, {"where": f"(SELECT count(*) FROM read_text('{__file__}')) > 0"},
         "data.where .*Permission Error"),
        (None, {"columns": ColumnsConfig(action=f"(SELECT content FROM read_text('{__file__}'))")},
         "data.columns.action .*Permission Error"),
        (other_items, {}, r"480 of 480 rows .*\n.*item without a feature vector: items.table has no vector"),
    ],
)  # fmt: skip
def test_bad_logs_and_settings(tmp_path, monkeypatch, arrange, data, message):
    monkeypatch.chdir(tmp_path)
    if arrange:
        arrange(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(given(tmp_path, **data), quiet)
    assert not list(tmp_path.glob("prepared/manifest.json"))
    assert not list(tmp_path.glob(".prepared*"))
