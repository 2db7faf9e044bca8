import json

import pytest
import small

from pinnerformer_jax.bench import accelerator, attention, embed, sweep

SIZE = {
    "batch_size": 16, "users_per_second": 1.0, "tokens_per_second": 1.0, "real_token_share": 1.0, "ms": 1.0,
    "ms_quartiles": [1.0, 1.0], "model_tflops_per_second": 1.0, "matmul_tflops_per_second": 1.0, "mfu": 0.5,
    "mfu_of_vendor_peak": None, "temporary_bytes": 1, "compile_seconds": 1.0, "retraces": 0, "in_parts": None,
    "with_input": None,
    "parts": [{"name": "QKV", "forward": 1.0, "backward": 2.0, "bytes": 1.0}],
}  # fmt: skip


def run(folder, **settings):
    defaults = {"folder": folder, "items": 40, "first": 16, "last": 16, "limit": 600.0, "seconds": 0.0}
    return accelerator.measure(small.config(), **defaults | {"peak_tflops": None} | settings)


def test_a_part_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    """The whole of it, unbroken, is run by tests/test_bench_main.py."""

    def broken(config, *, seconds):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(attention, "measure", broken)
    monkeypatch.setattr(sweep, "measure", lambda *_, **__: {"sizes": [SIZE], "ended": "", "png": None})
    monkeypatch.setattr(embed, "measure", lambda *_, **__: {})
    figures = run(tmp_path)
    accelerator.show(figures)
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["figures"] == figures
    assert figures["attention"] == {"failed": "NotImplementedError: no such kernel"}
    assert figures["loss"]["rows"] == 96
    assert figures["sweep"]["sizes"] == [SIZE]
    assert figures["embed"] == {}
    printed = capsys.readouterr().out
    assert "attention failed: NotImplementedError: no such kernel" in printed
    assert "QKV" in printed, "the best size's parts"


def test_time_that_is_up_leaves_parts_out(tmp_path):
    figures = run(tmp_path, limit=0.0)
    assert all(
        figures[part] == {"left_out": "time was up"} for part in ("attention", "loss", "sweep", "embed")
    )
    accelerator.show(figures)


def test_a_cpu_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match="--to is needed on a CPU"):
        run(tmp_path, last=None)
