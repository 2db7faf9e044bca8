"""One command: vectors by every method, item to item, and a PinnerFormer on each."""

import json

import numpy as np
import pytest

from pinnerformer_jax import compare_items as verb
from pinnerformer_jax.studies import compare_items as compare
from tests.items_world import write_world

CONFIG = """
import dataclasses
from pathlib import Path
from pinnerformer_jax.config import EvaluationConfig, ModelConfig, ObjectiveConfig, TrainingConfig
from tests.items_world import config as make
config = dataclasses.replace(
    make(Path({prepared!r})),
    model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=16, item_hidden=16),
    objective=ObjectiveConfig(positions=4, random_negatives=16, in_batch_negatives=16, sketch_width=64),
    training=TrainingConfig(batch_size=16, steps=2, future_events=8, validation_batches=1),
    evaluation=EvaluationConfig(topics=4),
)
"""


@pytest.fixture
def arguments(tmp_path):
    prepared = write_world(tmp_path / "p")
    (tmp_path / "config.py").write_text(CONFIG.format(prepared=str(prepared)))
    return ["--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "w"), "--pinsage.steps", "2"]


@pytest.mark.slow
def test_one_command_goes_on_where_it_was(tmp_path, arguments, capsys, monkeypatch):
    assert verb.main([*arguments, "--seeds", "2", "--methods", "pinsage"]) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "w/compare.json").read_text())
    methods = summary["methods"]
    assert set(methods) == {"random", "svd", "text", "pinsage", "item-kNN", "pair counts"}
    values = methods["pinsage"]["recall@10"]["values"]
    assert len(values) == 2
    assert all(0 <= value <= 1 for value in values)
    assert "recall@10" not in methods["svd"]
    assert "| pinsage |" in said
    assert (tmp_path / "w/compare.md").read_text() in said

    def no_more(*of, **named):
        raise AssertionError("was done before")

    monkeypatch.setattr(compare, "finish", no_more)
    monkeypatch.setattr(compare, "write_copy", no_more)
    assert verb.main([*arguments, "--seeds", "2", "--methods", "pinsage"]) == 0
    again = json.loads((tmp_path / "w/compare.json").read_text())
    assert again["methods"] == methods
    with pytest.raises(AssertionError, match="done before"):
        verb.main([*arguments, "--seeds", "2", "--methods", "pinsage", "--pinsage.width", "8"])


def test_a_stop_ends_it_softly(arguments, capsys, monkeypatch):
    def stop(*of):
        raise verb.Stopped

    monkeypatch.setattr(compare, "finish", stop)
    assert verb.main([*arguments, "--seeds", "1", "--methods", "text"]) == 0
    assert "the same command resumes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--seeds", "0"], "must be at least 1"), (["--methods", "given"], "items.vector names none")],
)
def test_wrong_usage(arguments, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        verb.main([*arguments, *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_table_by_hand():
    spread = {"values": [0.1, 0.3], "mean": 0.2, "deviation": 0.1414}
    once = {"values": [0.5], "mean": 0.5, "deviation": None}
    nothing = {"values": [np.nan], "mean": np.nan, "deviation": None}
    methods = {"a": {"recall@10": spread, "MRR, new": nothing}, "b": {"MRR, new": once}}
    page = compare.markdown({"name": "n", "command": "c", "pairs": {"new": 1234}, "methods": methods})
    assert "Pairs of items: 1,234 new." in page
    assert "| vectors | PinnerFormer recall@10 | MRR, new |" in page
    assert "| a | 0.2000 ± 0.1414 |  |\n| b |  | 0.5000 |\n" in page
