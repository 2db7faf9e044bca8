import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pinnerformer_jax.bench import __main__ as command
from pinnerformer_jax.bench import accelerator
from pinnerformer_jax.bench.accelerator import Part
from pinnerformer_jax.bench.overrides import override
from pinnerformer_jax.config_files import load_config

# The commands have not begun to use jax when they start a process; a test before this one may have.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

CONFIG = """
from pinnerformer_jax.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig

config = Config(
    name="tiny",
    model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=8, item_hidden=16),
    objective=ObjectiveConfig(positions=4, random_negatives=16, in_batch_negatives=16, sketch_width=1 << 8),
    training=TrainingConfig(batch_size=8, future_events=8),
)
"""


def run(tmp_path, monkeypatch, parts, limit=600.0):
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.setattr(accelerator, "parts", lambda *_: parts)
    file, folder = str(tmp_path / "tiny.py"), tmp_path / "out"
    summary = accelerator.measure(
        config_file=file, small_file=file, overrides=["--model.layers", "2"], folder=folder, sizes=[8],
        seconds=0.0, limit=limit,
    )  # fmt: skip
    accelerator.show(summary, folder)
    assert json.loads((folder / "summary.json").read_text()) == summary
    return {name: part["ended"] for name, part in summary.items()}, folder


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_leaves_the_others(tmp_path, monkeypatch, capsys):
    parts = [
        Part("wrong", "attention", 60, ("--model.wdith", "3")),
        Part("hangs", "attention", 0.2, ("--seconds", "0")),
        Part("sound", "attention", 120, ("--seconds", "0")),
    ]
    ended, folder = run(tmp_path, monkeypatch, parts)
    assert ended == {"wrong": "failed", "hangs": "failed", "sound": "done"}
    printed = capsys.readouterr().out
    assert "wrong failed: ended with code 2: error: --model.wdith: no such flag or setting" in printed
    assert "hangs failed: ended after 0 s, its time" in printed
    assert "parts: 1 of 3 done" in printed
    whole = json.loads((folder / "sound.json").read_text())
    assert whole["config"]["model"]["layers"] == 2, "overrides reach the part"
    ended, _ = run(tmp_path, monkeypatch, parts, limit=0.0)
    assert ended == {"wrong": "left out", "hangs": "left out", "sound": "done"}, "what is there is not redone"


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere a part outlives a killed command")
def test_a_part_ends_with_a_command_that_is_killed(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    file, folder = str(tmp_path / "tiny.py"), tmp_path / "out"
    command = [sys.executable, "-m", "pinnerformer_jax.bench", "accelerator", "--folder", str(folder)]
    whole = subprocess.Popen([*command, "--config", file, "--small", file], stdout=subprocess.PIPE, text=True)
    try:
        assert whole.stdout.readline() == "device ...\n", "the first part begins"
        children = Path(f"/proc/{whole.pid}/task/{whole.pid}/children")
        wait_until(lambda: b"device" in command_of(children.read_text().strip()), 10.0)
        part = children.read_text().strip()
    finally:
        os.kill(whole.pid, signal.SIGKILL)
        whole.communicate()
    # Importing jax alone takes longer than this, and the part would then measure for three seconds.
    wait_until(lambda: not command_of(part), 30.0)
    assert not (folder / "device.json").exists()


def command_of(pid: str) -> bytes:
    """The command of a process that runs; empty where there is none or it has ended."""
    try:
        return Path(f"/proc/{pid or 0}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        time.sleep(0.01)


def test_parts_have_names_of_their_own_and_arguments_that_their_verbs_take(tmp_path):
    parts = accelerator.parts(tmp_path, [512, 64], 4.0)
    assert len({part.name for part in parts}) == len(parts)
    assert [part.name for part in parts[:2]] == ["device", "gradients"]
    assert parts[-1].name == "triton", "XLA times its kernels for minutes"
    config = load_config(str(Path(__file__).parents[1] / "configs/paper.py"))
    for part in parts:
        words = [part.verb, "--config", "x.py", *part.arguments]
        _, others = command._parser().parse_known_args(words)
        assert all(word.startswith("--") and "." in word for word in others[::2]), "only settings are left"
        changed = override(config, others)
        assert not changed.training.deterministic or changed.model.attention == "blocks"


def test_the_last_block_has_the_figures_of_each_part(tmp_path):
    (tmp_path / "step-8.json").write_text(json.dumps({"benchmark": "step", "figures": {"ms": 12.3456}}))
    (tmp_path / "summary.json").write_text("{}")
    assert list(accelerator.lines(tmp_path)) == ["step-8.ms: 12.35"]
