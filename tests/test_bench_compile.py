import dataclasses
import importlib.util
import re

import pytest
import small

from pinnerformer_jax.bench import compile as compile_ahead
from pinnerformer_jax.training.sharding import make_mesh


def bfloat16(**model):
    config = small.config()
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, layers=3, compute_dtype="bfloat16", **model)
    )


def lowered(config, platform: str) -> str:
    with compile_ahead.seen_as(platform):
        return compile_ahead.traced(config, make_mesh(1), 40).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.slow
def test_on_a_gpu_all_blocks_but_the_last_use_cudnns_attention_forward_and_backward():
    text = lowered(bfloat16(), "cuda")
    assert len(re.findall(r"@__cudnn\$fmhaSoftmax\(", text)) == 2
    assert len(re.findall(r"@__cudnn\$fmhaSoftmaxBackward\(", text)) == 2


@pytest.mark.parametrize(
    ("config", "platform"), [(small.config(), "cuda"), (bfloat16(width=16), "cuda"), (bfloat16(), "tpu")]
)
@pytest.mark.slow
def test_float32_narrow_heads_and_tpus_do_without_it(config, platform):
    assert "cudnn" not in lowered(config, platform)


def test_the_first_that_does_not_fit_is_the_last(monkeypatch, capsys):
    def compiled(config, mesh, chip, items):
        users = config.training.batch_size
        return {"batch_size": users, "fits": users < 32, "temporary_bytes": users << 20}

    monkeypatch.setattr(compile_ahead, "_devices", lambda chip: make_mesh(1).devices.tolist())
    monkeypatch.setattr(compile_ahead, "_compile", compiled)
    figures = compile_ahead.measure(small.config(), chip="v5e", items=40, first=8, last=1000)
    assert [size["batch_size"] for size in figures["sizes"]] == [8, 16, 32]
    compile_ahead.show(figures)
    assert re.search(r"^32 +no +0.0312 +- +1 ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(("chip", "package"), [("h200", "jax_cuda12_plugin"), ("v5e", "libtpu")])
def test_compiles_for_a_chip_that_is_not_there(chip, package):
    def measure():
        return compile_ahead.measure(bfloat16(), chip=chip, items=40, first=16, last=16)

    if importlib.util.find_spec(package) is None:
        with pytest.raises(ValueError, match=rf"no compiler for {chip}: pip install"):
            measure()
        pytest.skip(f"{package} is not installed")
    (size,) = measure()["sizes"]
    assert size["fits"]
    assert size["bytes"] > size["temporary_bytes"]
    assert ("kernels" in size) == (chip == "h200")
