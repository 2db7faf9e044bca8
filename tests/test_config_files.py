import dataclasses
from pathlib import Path

import pytest

from pinnerformer_jax.config import Config, IndexConfig, ModelConfig
from pinnerformer_jax.config_files import differences, digest, from_dict, load_config, to_dict

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_explains_itself_and_survives_json(path):
    config = load_config(path)
    assert from_dict(to_dict(config)) == config
    assert "train.py" in path.read_text(encoding="utf-8").split('"""')[1], "docstring lacks its command"


def test_unknown_settings_are_named():
    values = to_dict(Config())
    values["model"]["depth"] = 3
    with pytest.raises(ValueError, match=r"model.depth = 3: no such setting"):
        from_dict(values)


def test_an_older_config_keeps_its_settings_in_sections_of_today():
    saved = to_dict(Config())
    del saved["embedding"], saved["index"]
    saved["evaluation"] |= {
        "batch_size": 64, "scann_leaves": 500, "scann_leaves_searched": 50, "scann_reorder": 100,
    }  # fmt: skip
    config = from_dict(saved)
    assert config.index == IndexConfig(leaves=500, leaves_searched=50, reorder=100)
    assert (config.embedding.batch_size, config.evaluation.batch_size) == (64, 64)
    assert from_dict(to_dict(config)) == config
    assert "scann_leaves" in saved["evaluation"]


def test_differences_and_digest():
    old = Config()
    new = dataclasses.replace(old, model=ModelConfig(layers=2))
    assert differences(to_dict(old), to_dict(new)) == ["model.layers: 6 -> 2"]
    assert digest(old) == digest(Config())
    assert digest(old) != digest(new)


def test_missing_and_empty_config_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such config file"):
        load_config(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="must define `config = Config"):
        load_config(tmp_path / "empty.py")


HEAD = "from pinnerformer_jax.config import *\n\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = Config(\n", "c.py line 3: .* was never closed"),
        ("import no_such_module\n", "c.py line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "config = Config(model=ModelConfig(layer=3))\n",
            "c.py line 3: TypeError: .*The nearest is 'layers'",
        ),
        ("config = Config(zzz=3)\n", r"c.py line 3: .*There are: \['name', 'sizes_by_log', 'data'"),
        ("config = Config(\n    data={'shards': 2})\n", r"c.py line 3: data = .*: must be a DataConfig"),
        ("config = Config(data=DataConfig(shards=0))\n", "c.py line 3: data.shards = 0: must be >= 1"),
        ("config = 1 / 0\n", "c.py line 3: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_run_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "c.py").write_text(HEAD + text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "c.py")
