"""The arithmetic of docs/scale.md follows from what the code stores and holds."""

from pathlib import Path

import jax
import numpy as np
import pytest
import small_run

from pinnerformer_jax.config import Config, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.data.timelines import COLUMNS, Timelines
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.objective.frequency import empty_sketch
from pinnerformer_jax.training.inputs import open_training_data
from pinnerformer_jax.training.item_table import capacity, place
from pinnerformer_jax.training.sharding import make_mesh
from pinnerformer_jax.training.state import create

USERS, EVENTS, ITEMS, NUMBERS = 400_000_000, 256, 1_000_000_000, 256
PAGE = (Path(__file__).parents[1] / "docs/scale.md").read_text(encoding="utf-8")


def row(name: str) -> list[str]:
    """Cells of the table's row of this name."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"


def bytes_of(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_bytes_of_the_prepared_folder():
    event = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())
    assert row("events on disk")[0] == gb(USERS * EVENTS * event)
    assert row("events of one step, read by all processes together")[0] == (
        f"{512 * (Config().model.max_length + Config().training.future_events) * event / 1e6:,.1f} MB at most"
    )


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_bytes_of_the_item_table_on_each_device(dtype):
    rows, devices = 16, 4
    features = np.ones((rows * devices, NUMBERS), np.float16)
    table = place(make_mesh(devices), features, TrainingConfig(shard_items=True, item_dtype=dtype))
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(table))
    a_row = on_one / rows
    cells = row(f"item vectors, {dtype}, sharded")
    assert cells == [gb(a_row * ITEMS / count) for count in (1, 8, 64, 256)]


def test_bytes_of_counts_and_parameters_on_each_device():
    counts = bytes_of(jax.eval_shape(lambda: empty_sketch(ObjectiveConfig(), ITEMS)))
    assert set(row("counts of positives")) == {gb(counts)}
    state = jax.eval_shape(lambda: create(Config(), Sizes(NUMBERS, 8, 8, 0, ITEMS))[1])
    rest = bytes_of((state.params, state.opt_state, state.params))  # gradients are as large as parameters
    assert set(row("parameters, moments, gradients")) == {gb(rest)}


def test_numbers_fit_and_what_each_process_holds_of_all_users(tmp_path):
    config = small_run.config(small_run.write_data(tmp_path / "prepared"))
    windows = Windows(Timelines.open(config.data.prepared), config)
    batch = windows.batch(0)
    for numbers, count in ((batch.user, USERS), (batch.history.item, ITEMS)):
        assert count < np.iinfo(numbers.dtype).max
    held = windows.users.itemsize * USERS
    assert set(row("numbers of the training users")) == {gb(held)}


def test_one_process_alone_compares_the_checksums_of_all_files(tmp_path, monkeypatch):
    config = small_run.config(small_run.write_data(tmp_path / "prepared"))
    file = next((tmp_path / "prepared").rglob("duration.npy"))
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=r"duration\.npy"):
        open_training_data(config)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    open_training_data(config)


def test_bytes_between_devices():
    config, users = load_config(Path(__file__).parents[1] / "configs/paper.py"), 64
    objective, length = config.objective, config.model.max_length
    _, state = jax.eval_shape(lambda: create(config, Sizes(NUMBERS, 9, 9, 0, 10_000)))
    found = {name: [] for name in ("gradient, loss and counts", "positives of all users")}
    found |= {f"split: rows of {name}": [] for name in ("the pool", "own histories and targets")}
    for devices in (2, 4, 8, 16, 32, 64):
        pairs = users * devices * objective.positions
        pool = objective.random_negatives + min(objective.in_batch_negatives, pairs)
        asked = sum(capacity(users * of, devices) for of in (length, objective.positions))
        share = (devices - 1) / devices
        reduced, gathered = bytes_of(state.params) + 16, pairs * (4 + 4 + 1)
        exchanged = devices * asked * (4 + 2 * NUMBERS)
        sizes = 2 * share * reduced, share * gathered, 2 * share * pool * 2 * NUMBERS, share * exchanged
        for name, size in zip(found, sizes, strict=True):
            found[name].append(size / 1e6)
    for (name, sizes), digits in zip(found.items(), (0, 2, 1, 1), strict=True):
        assert row(f"of which, {name}" if "split" in name else f"of which: {name}") == [
            f"{size:.{digits}f}" for size in sizes
        ]


def test_hours_follow_from_the_measured_rates():
    train, embed = 6_924, 27_103  # docs/performance.md, users/s on one H200
    text = (Path(__file__).parents[1] / "docs/performance.md").read_text(encoding="utf-8")
    assert "6,924" in text
    assert "27,103" in text
    for name, rate in (("an epoch of training", train), ("embedding every user", embed)):
        assert row(name) == [f"{USERS / rate / 3600 / count:,.2f} h" for count in (1, 8, 64, 256)]
