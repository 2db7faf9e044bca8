import pytest
import small
import small_run

from pinnerformer_jax.bench import flops, step, workload


@pytest.mark.slow
def test_figures_agree_with_each_other(capsys):
    config = small.config()
    figures = step.measure(config, kind="uniform", items=40, seconds=0.0, peak_tflops=2.0)
    seconds = figures["ms"] / 1e3
    tokens = workload.lengths("uniform", config).sum()
    assert figures["users_per_second"] == pytest.approx(16 / seconds)
    assert figures["tokens_per_second"] == pytest.approx(tokens / seconds)
    assert figures["real_token_share"] == pytest.approx(tokens / (16 * 20))
    pace = flops.step_flops(config, workload.SIZES) / seconds / 1e12
    assert figures["model_tflops_per_second"] == pytest.approx(pace)
    assert figures["mfu"] == pytest.approx(pace / figures["matmul_tflops_per_second"])
    assert figures["mfu_of_vendor_peak"] == pytest.approx(pace / 2)
    assert figures["retraces"] == 0
    assert figures["temporary_bytes"] > 0
    parts = figures["in_parts"]
    assert list(parts["lengths"]) == sorted(parts["lengths"], reverse=True)
    assert parts["of_the_step"] == pytest.approx(parts["ms"] / figures["ms"])
    assert figures["with_input"] is None
    step.show(figures)
    printed = capsys.readouterr().out
    assert "0 retraces" in printed
    assert "In parts of lengths 20, " in printed
    assert all(part in printed for part in ("QKV", "attention", "FFN", "item tower", "logits"))


@pytest.mark.slow
def test_the_wait_for_input_is_measured_on_prepared_data(tmp_path, capsys):
    prepared = small_run.write_data(tmp_path / "p")
    figures = step.measure(small.config(), kind=str(prepared), items=40, seconds=0.0)
    fed = figures["with_input"]
    assert fed["waiting"] == pytest.approx(max(0, 1 - figures["ms"] / fed["ms"]))
    step.show(figures)
    assert "waiting for input" in capsys.readouterr().out
