import jax
import pytest
import small

from pinnerformer_jax.bench import sweep


def fake(largest=10**9, error="RESOURCE_EXHAUSTED: Out of memory"):
    def measure(config, *, seconds, kind):
        size = config.training.batch_size
        if size > largest:
            raise jax.errors.JaxRuntimeError(error)
        return {
            "batch_size": size, "users_per_second": 100.0 * size, "tokens_per_second": 1.0, "ms": 1.0,
            "ms_quartiles": [1.0, 1.0], "model_tflops_per_second": 1.0, "mfu": 0.4,
            "mfu_of_vendor_peak": None, "temporary_bytes": 1,
            "compile_seconds": 1.0,
        }  # fmt: skip

    return measure


def run(tmp_path, **settings):
    defaults = {"first": 4, "last": 64, "seconds": 0.0, "png": tmp_path / "curve.png", "kind": "full"}
    return sweep.measure(small.config(), **defaults | settings)


def sizes(figures):
    return [size["batch_size"] for size in figures["sizes"]]


def test_doubles_to_the_last_and_draws_the_curve(tmp_path, capsys):
    figures = run(tmp_path, measure_step=fake())
    assert sizes(figures) == [4, 8, 16, 32, 64]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    sweep.show(figures)
    assert "--to was reached; curve: " in capsys.readouterr().out


def test_the_end_of_memory_ends_the_curve(tmp_path):
    figures = run(tmp_path, measure_step=fake(largest=16))
    assert sizes(figures) == [4, 8, 16]
    assert figures["ended"] == "memory ended at 32"


def test_another_error_keeps_what_was_measured_and_is_raised_where_nothing_was(tmp_path):
    figures = run(tmp_path, measure_step=fake(largest=16, error="INTERNAL: broken"))
    assert sizes(figures) == [4, 8, 16]
    assert figures["ended"] == "failed at 32: INTERNAL: broken"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(tmp_path, measure_step=fake(largest=1, error="INTERNAL: broken"))


def test_time_ends_it_too(tmp_path):
    figures = run(tmp_path, measure_step=fake(), deadline=0.0)
    assert sizes(figures) == []
    assert figures["ended"] == "time was up"
    assert figures["png"] is None


def test_a_cpu_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match="--to is needed on a CPU"):
        run(tmp_path, last=None)


def test_without_matplotlib_the_curve_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert run(tmp_path, measure_step=fake())["png"] is None
    assert "matplotlib is not installed" in capsys.readouterr().out
