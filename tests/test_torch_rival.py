import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import problem
from benchmarks.rival_variants import VARIANTS, Wrong, check, our_side, torch_side
from pinnerformer_jax.bench.correctness import gradient_errors, named

# The commands have not begun to use jax when they start a process; a test before this one may have.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


ROOT = Path(__file__).parents[1]
TINY = problem.SIZES["tiny"]


@pytest.fixture(scope="module")
def inputs():
    return problem.make_problem(TINY)


@pytest.fixture(scope="module")
def ours(inputs):
    """(loss, gradients, loss of each of three steps)"""
    loss, gradient, run = our_side(VARIANTS["ours"], TINY, "float32", inputs)
    return loss, gradient, [float(run()) for _ in range(3)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed; the rival needs it")


def test_the_problem_has_padding_and_pairs_that_are_not_valid(inputs):
    assert (inputs["length"] < TINY.length).any()
    assert (inputs["weight"] == 0).any()
    assert not inputs["pool_valid"].all()
    assert (inputs["position"] < inputs["length"][:, None]).all()


def test_our_unpruned_step_is_the_pruned_one(inputs, ours):
    loss, gradient, _ = our_side(VARIANTS["ours, unpruned"], TINY, "float32", inputs)
    np.testing.assert_allclose(loss, ours[0], rtol=1e-6)
    assert max(gradient_errors(gradient, ours[1]).values()) < 1e-5


def test_the_check_finds_one_wrong_gradient(ours):
    loss, gradient, losses = ours
    wanted = (loss, gradient, losses[-1])
    assert "worst gradient 0e+00" in check(*wanted, wanted, "float32")
    for name in ("user/encoder/phase", "item/up/kernel", "log_temperature"):
        with pytest.raises(Wrong, match=rf"\({name}\).*1 of \d+ gradients are off"):
            check(loss, gradient | {name: 1.4 * gradient[name]}, losses[-1], wanted, "float32")
        with pytest.raises(Wrong):
            check(loss, gradient | {name: gradient[name] * np.nan}, losses[-1], wanted, "float32")
    with pytest.raises(Wrong):
        check(loss, gradient, losses[0], wanted, "float32")


@pytest.mark.parametrize("name", ["torch eager", "torch eager, unpruned"])
def test_eager_has_our_loss_gradients_and_updates(torch, inputs, ours, name):
    _, params = problem.make_params(problem.make_config(TINY, "float32"), TINY)
    loss, gradient, run = torch_side(VARIANTS[name], TINY, "float32", inputs, named(params))
    np.testing.assert_allclose(loss, ours[0], rtol=1e-6)
    assert gradient.keys() == ours[1].keys()
    assert max(gradient_errors(gradient, ours[1]).values()) < 1e-4
    np.testing.assert_allclose([float(run()) for _ in range(3)], ours[2], rtol=1e-4)


def test_eager_loses_no_item_gradient_in_bfloat16(torch):
    """Those of targets and negatives nearly cancel; two calls of the item tower had an error of 0.016."""
    size = TINY._replace(width=64, item_dim=32, output_dim=32, users=64, positions=32, in_batch=1024)
    size = size._replace(random=2048, catalogue=50_000)
    inputs = problem.make_problem(size)
    params = named(problem.make_params(problem.make_config(size, "float32"), size)[1])
    found = {
        dtype: torch_side(VARIANTS["torch eager"], size, dtype, inputs, params)[1]
        for dtype in ("float32", "bfloat16")
    }
    errors = gradient_errors(found["bfloat16"], found["float32"])
    assert max(errors[name] for name in errors if name.startswith("item/")) < 0.01


def test_weights_of_another_model_are_refused(torch):
    from benchmarks import torch_model

    config = problem.make_config(TINY, "float32")
    model = torch_model.PinnerFormer(config.model, TINY.of_data(), 0.01, pruned=True, autocast=False)
    with pytest.raises(ValueError, match=r"differ in parameters: .*user/norm/scale"):
        torch_model.copy_weights(model, {"user/norm/bias": np.zeros(TINY.width, np.float32)})


@pytest.mark.slow
def test_without_torch_the_rival_is_left_out_with_its_reason(tmp_path):
    """The command from end to end, on whatever is installed."""
    command = [sys.executable, "-m", "benchmarks.torch_rival", "--size", "tiny", "--seconds", "1"]
    command += ["--only", "ours", "torch eager", "--json", str(tmp_path / "result.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads((tmp_path / "result.json").read_text())
    ours, rival = result["variants"]["ours"], result["variants"]["torch eager"]
    assert ours["passed"]
    assert ours["rounds"] >= 1
    if rival["passed"]:
        assert len(rival["ours_over_it"]) == 3
    else:
        assert "No module named 'torch'" in rival["check"]
        assert "left out" in done.stdout
