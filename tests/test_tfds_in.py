"""TFDS in: mock data of a public data set, the public parser on raw files, and a small real builder."""

import json
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants
from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as tf
from tensorflow_datasets.testing import mocking

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.ingestion import tfds_in
from pinnerformer_jax.ingestion.tfds_in import export

BIG = 2**53 + 1  # lost if it ever passes through a float


class TinyLog(tfds.core.GeneratorBasedBuilder):
    """An event log with features of many kinds."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["view", "like"])
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "user": np.int64,
                    "item": tfds.features.Text(),
                    "when": {"time": np.int64, "zone": np.str_},
                    "action": label,
                    "tags": tfds.features.Sequence(label),
                    "words": tfds.features.Sequence(tfds.features.Text()),
                    "vector": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                    "matrix": tfds.features.Tensor(shape=(2, 2), dtype=np.float32),
                    "replies": tfds.features.Sequence({"user": np.int64}),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

    def _generate_examples(self, rows):
        for row in range(rows):
            yield (
                row,
                {
                    "user": BIG + row,
                    "item": f"café {row}".encode() if row else b"\xff",
                    "when": {"time": 1_700_000_000 + row, "zone": "UTC"},
                    "action": row % 2 if row < 4 else -1,
                    "tags": ["like"] * row,
                    "words": ["ä", "b"],
                    "vector": [row, 0.5],
                    "matrix": np.zeros((2, 2), np.float32),
                    "replies": [{"user": 1}],
                },
            )


class NeedsTensorflow(TinyLog):
    """A data set whose parser does more with TensorFlow than open files."""

    def _generate_examples(self, rows):
        yield tf.constant(rows)


class Pictures(TinyLog):
    """Nothing that fits a column."""

    def _info(self):
        matrix = tfds.features.Tensor(shape=(2, 2), dtype=np.float32)
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"matrix": matrix}))

    def _generate_examples(self, rows):
        yield 0, {"matrix": np.zeros((2, 2), np.float32)}


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """TFDS_DATA_DIR, which TFDS reads when it is imported."""
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def test_mock_movielens_comes_out_as_tfds_gives_it(tmp_path, monkeypatch):
    # The mock lacks the batched read of the real data source: it forgets to take self.
    monkeypatch.setattr(mocking, "_getitems", lambda keys, generator: [generator[key] for key in keys])
    monkeypatch.setattr(tfds_in, "ROWS", 3)
    with tfds.testing.mock_data(num_examples=7):
        path = export("movielens/1m-ratings", "train", tmp_path)
        builder = tfds.builder("movielens/1m-ratings")
        expected = list(builder.as_data_source("train"))
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert len(rows) == 7
    genres = builder.info.features["movie_genres"].feature
    for row, example in zip(rows, expected, strict=True):
        assert row["user_id"] == example["user_id"]
        assert row["movie_title"] == example["movie_title"]
        assert row["timestamp"] == example["timestamp"]
        assert row["user_rating"] == example["user_rating"]
        assert row["movie_genres"] == [genres.int2str(int(genre)) for genre in example["movie_genres"]]


def test_movielens_is_prepared_from_its_raw_files_and_mapped_by_its_config(tmp_path):
    raw = tmp_path / "raw" / "ml-1m"
    raw.mkdir(parents=True)
    films = "1::Amélie (2001)::Children's|Comedy\n2::Alien (1979)::Horror\n"
    (raw / "movies.dat").write_bytes(films.encode("latin1"))
    (raw / "users.dat").write_text("7::F::25::4::12345\n8::M::35::0::54321\n")
    (raw / "ratings.dat").write_text("7::1::5::978300760\n7::2::2::978302109\n8::2::4::978301968\n")
    downloaded = mock.patch.object(
        tfds.download.DownloadManager, "download_and_extract", return_value=tmp_path / "raw"
    )
    config = load_config(Path(__file__).parents[1] / "configs" / "movielens.py").data
    with downloaded:
        path = export(config.events[0].removeprefix("tfds:"), "", tmp_path)
    columns = [config.columns.user, config.columns.item, config.columns.time, config.columns.action]
    columns += [config.columns.title, config.columns.topic]
    rows = duckdb.sql(f"SELECT {', '.join(columns)} FROM read_parquet('{path}') ORDER BY ALL").fetchall()
    assert rows == [
        ("7", "1", 978300760, "like", "Amélie (2001)", "Children Comedy"),
        ("7", "2", 978302109, "rate", "Alien (1979)", "Horror"),
        ("8", "2", 978301968, "like", "Alien (1979)", "Horror"),
    ]


def test_features_become_columns(tmp_path, capsys):
    table = pq.read_table(export("tiny_log", "train", tmp_path))
    assert {field.name: str(field.type) for field in table.schema} == {
        "user": "int64",
        "item": "string",
        "when_time": "int64",
        "when_zone": "string",
        "action": "string",
        "tags": "list<element: string>",
        "words": "list<element: string>",
        "vector": "list<element: float>",
    }
    rows = table.to_pylist()
    assert rows[3] == {
        "user": BIG + 3,
        "item": "café 3",
        "when_time": 1_700_000_003,
        "when_zone": "UTC",
        "action": "like",
        "tags": ["like", "like", "like"],
        "words": ["ä", "b"],
        "vector": [3.0, 0.5],
    }
    assert rows[0]["item"] == "\\xff"
    assert rows[0]["tags"] == []
    assert rows[4]["action"] is None
    notes = capsys.readouterr().out
    assert "tfds:tiny_log: matrix is left out" in notes
    assert "tfds:tiny_log: replies is left out" in notes


@pytest.mark.parametrize(("split", "rows"), [("train", 5), ("test", 2), ("train[:40%]", 2), ("", 7)])
def test_splits(tmp_path, split, rows):
    path = export("tiny_log", split, tmp_path)
    assert path.parent == tmp_path
    assert pq.read_metadata(path).num_rows == rows


def test_splits_do_not_share_a_file(tmp_path):
    assert export("tiny_log", "train[:40%]", tmp_path) != export("tiny_log", "train[40%:]", tmp_path)


def test_reads_from_the_files_alone_what_is_prepared(tmp_path):
    first = pq.read_table(export("tiny_log", "train", tmp_path / "a")).to_pylist()
    with mock.patch.object(tfds_in, "prepare", side_effect=AssertionError("prepared twice")):
        again = export("tiny_log:1.0.0", "train", tmp_path / "b")  # with a version TFDS goes by the files
    assert pq.read_table(again).to_pylist() == first


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("movilens/1m-ratings", "train", ["tfds:movilens/1m-ratings", "did you mean", "movielens"]),
        ("qqqqqqqq", "train", ["tfds:qqqqqqqq", "no such data set", "catalog"]),
        ("movielens/2m-ratings", "train", ["tfds:movielens/2m-ratings", "1m-ratings"]),
        ("not a name", "train", ["tfds:not a name", "format"]),
        ("tiny_log", "trian", ["tfds:tiny_log:trian", "Should be one of ['train', 'test']"]),
        ("pictures", "train", ["tfds:pictures", "none of its features"]),
    ],
)
def test_errors_name_the_data_set_and_the_cure(tmp_path, name, split, words):
    with pytest.raises(ValueError, match="tfds:") as caught:
        export(name, split, tmp_path / "out")
    for word in words:
        assert word in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def test_a_data_set_that_cannot_be_prepared_here(tmp_path, data_dir):
    with pytest.raises(
        RuntimeError, match=r"tfds:needs_tensorflow could not be prepared.*tfds build needs_t"
    ):
        export("needs_tensorflow", "train", tmp_path)
    assert not (data_dir / "needs_tensorflow" / "1.0.0").exists()


def test_a_data_set_in_tensorflows_own_format(tmp_path, data_dir):
    export("tiny_log", "train", tmp_path)
    info = data_dir / "tiny_log" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match=r"tfds:tiny_log: .*tiny_log/1\.0\.0 holds tfrecord files.*delete"):
        export("tiny_log", "train", tmp_path)
