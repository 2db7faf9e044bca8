"""The command line, as a process of its own where only jax, flax, optax and numpy are installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABSENT = (
    "jaxtyping", "tyro", "grain", "scann", "tensorflow_datasets", "matplotlib", "duckdb", "pyarrow",
    "sklearn", "tqdm", "tensorboardX", "jinja2", "beartype",
)  # fmt: skip
CONFIG = """
from pinnerformer_jax.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig

config = Config(
    name="tiny",
    model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=8, item_hidden=16),
    objective=ObjectiveConfig(positions=4, random_negatives=16, in_batch_negatives=16, sketch_width=1 << 8),
    training=TrainingConfig(batch_size=8, future_events=8),
)
"""


def run(tmp_path, *arguments, absent=ABSENT):
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import runpy; "
        "runpy.run_module('pinnerformer_jax.bench', run_name='__main__', alter_sys=True)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-c", code, *(str(config) if a == "CONFIG" else a for a in arguments)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["device", "correctness", "step", "profile", "attention", "loss", "counts", "embed"]
)
def test_what_an_accelerator_runs_needs_jax_flax_optax_and_numpy_alone(tmp_path, verb):
    seconds = [] if verb in ("correctness", "profile") else ["--seconds", "0"]
    items = [] if verb in ("device", "attention") else ["--items", "50"]
    dtype = ["--model.compute-dtype", "bfloat16"]
    done = run(tmp_path, verb, "--config", "CONFIG", *seconds, *items, *dtype, "--json", "copy.json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout.splitlines()[-1])
    assert values == json.loads((tmp_path / "copy.json").read_text())
    assert values["config"]["model"]["compute_dtype"] == "bfloat16"
    if verb == "correctness":
        assert values["figures"]["passed"], done.stdout
    if verb == "profile":
        assert values["figures"]["parts_ms"]["last_block/feed_forward"] > 0


@pytest.mark.slow
def test_collectives_simulate_their_devices(tmp_path):
    done = run(tmp_path, "collectives", "--config", "CONFIG", "--devices", "2", "--items", "50")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout.splitlines()[-1])["figures"]["by_devices"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "--config", "nowhere.py"], "nowhere.py: no such config file"),
        (["attention", "--config", "CONFIG", "--model.wdith", "3"], "--model.wdith: no such flag or setting"),
        (["sweep", "--config", "CONFIG"], "--to is needed on a CPU"),
        (["step"], "the following arguments are required: --config"),
        (["input", "--config", "CONFIG", "--prepared", "nothing"], "no prepared data here"),
    ],
)
@pytest.mark.slow
def test_wrong_use_is_a_message(tmp_path, arguments, message):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_explains(tmp_path):
    done = run(tmp_path, "sweep", "--help")
    assert done.returncode == 0
    for text in (
        "batch sizes that double",
        "--from",
        "--lengths",
        "--model.compute-dtype bfloat16",
        "(100000)",
    ):
        assert text in done.stdout
