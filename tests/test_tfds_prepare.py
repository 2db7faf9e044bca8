"""What TFDS asks of TensorFlow while it prepares a data set is there, and only then."""

import resource
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import lazy_imports_utils

from pinnerformer_jax.ingestion.tfds_prepare import prepare


class _Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The numbers in the zipped text files beside its data folder."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"n": np.int64}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dl_manager.extract(self.data_path.parents[2] / "raw.zip"))}

    def _generate_examples(self, path):
        for line in (path / "inner" / "numbers.txt").read_text().split():
            yield line, {"n": int(line)}


def _builder(tmp_path, numbers):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("inner/numbers.txt", "\n".join(map(str, numbers)))
    return _Numbers(data_dir=tmp_path / "data")


def _read(builder):
    return sorted(example["n"] for example in builder.as_data_source("train"))


def test_unpacks_an_archive_and_writes_array_record(tmp_path):
    builder = _builder(tmp_path, range(20))
    prepare(builder)
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    assert _read(builder) == list(range(20))


def test_shuffles_more_than_its_memory_through_files(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)
    builder = _builder(tmp_path, range(300))
    prepare(builder)
    assert _read(builder) == list(range(300))


def test_allows_as_many_open_files_as_tfds_shuffles_through(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        prepare(_builder(tmp_path, [1]))
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert allowed == (4096 if hard == resource.RLIM_INFINITY else min(4096, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("numbers", [[1, 2], ["not a number"]])
def test_leaves_nothing_in_tensorflows_place(tmp_path, numbers):
    try:
        prepare(_builder(tmp_path, numbers))
    except ValueError:
        assert numbers == ["not a number"]
    assert "_module" not in vars(lazy_imports_utils.tensorflow)
