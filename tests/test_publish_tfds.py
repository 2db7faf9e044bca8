"""The verb that publishes."""

import pytest
import tensorflow_datasets as tfds
from prepared import write_prepared

from pinnerformer_jax.publish_tfds import main


def test_publishes_and_says_where(tmp_path, capsys):
    prepared = write_prepared(tmp_path / "prepared", {"a": [(0, 1, 1, 1_700_000_000, 2.0)]}, 1_700_000_000)
    main(["--prepared", str(prepared), "--data-dir", str(tmp_path / "tfds"), "--name", "my_log"])
    folder = capsys.readouterr().out.splitlines()[-1].removeprefix("published: ")
    assert folder == str(tmp_path / "tfds" / "my_log" / "1.0.0")
    assert tfds.builder_from_directory(folder).as_data_source("train")[0]["user_id"] == b"a"


def test_nothing_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--prepared", str(tmp_path / "none"), "--data-dir", str(tmp_path / "tfds")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
