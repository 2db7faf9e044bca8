"""A training that cannot fit is refused before it takes memory."""

import dataclasses

import jax
import pytest
import small_run

from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training import loop, memory
from pinnerformer_jax.training.memory import check_memory
from pinnerformer_jax.training.sharding import make_mesh
from pinnerformer_jax.training.state import create

GIB = 1 << 30


@pytest.fixture
def windows(tmp_path):
    config = small_run.config(small_run.write_data(tmp_path / "prepared"))
    from pinnerformer_jax.data.timelines import Timelines

    return Windows(Timelines.open(config.data.prepared), config)


def check(config, windows):
    state = jax.eval_shape(lambda: create(config, Sizes(8, 3, 3))[1])
    check_memory(config, state, dataclasses.replace(windows, config=config), make_mesh(1))


@pytest.mark.parametrize(
    ("section", "settings", "large"),
    [
        ("model", {"width": 65_536, "heads": 8, "layers": 8}, "parameters, moments and gradients"),
        ("training", {"batch_size": 2**24, "future_events": 65_536}, "the batch"),
        ("objective", {"sketch_width": 2**28, "sketch_depth": 8}, "parameters"),
    ],
)
def test_what_cannot_fit_is_named(windows, monkeypatch, section, settings, large):
    monkeypatch.setattr(memory, "total_memory", lambda mesh: 4 * GIB)
    config = windows.config
    check(config, windows)
    huge = dataclasses.replace(getattr(config, section), **settings)
    with pytest.raises(
        ValueError, match=rf"a train step takes [\d,.e+]+ GiB at least .*{large}.*has 4 GiB: lower"
    ):
        check(dataclasses.replace(config, **{section: huge}), windows)


def test_the_papers_size_fits_where_it_was_trained(windows, monkeypatch):
    """One accelerator of 80 GiB; the estimate is below what the program takes, so that nothing that works is
    refused."""
    monkeypatch.setattr(memory, "total_memory", lambda mesh: 80 * GIB)
    check(dataclasses.replace(load_config("configs/paper.py"), data=windows.config.data), windows)


@pytest.mark.slow
def test_the_estimate_is_below_what_the_program_takes(windows, monkeypatch, tmp_path):
    """Whose own size is checked too, once it is compiled."""
    sizes = []

    class CompiledError(Exception):
        pass

    def compiled(size, *_):
        sizes.append(size)
        raise CompiledError

    monkeypatch.setattr(memory, "refuse", lambda size, *_: sizes.append(size))
    monkeypatch.setattr(loop, "refuse", compiled)
    with pytest.raises(CompiledError):
        loop.train(*loop.open_run(windows.config, tmp_path / "run"))
    estimate, program = sizes
    assert 0.1 * program < estimate < program
