"""What only a GPU can show. There: JAX_PLATFORMS=cuda,cpu python -m pytest -m gpu
jax, flax, optax, jaxtyping, numpy and pytest are enough."""

import dataclasses

import jax
import pytest
import small

from pinnerformer_jax.bench import correctness
from pinnerformer_jax.config import Config, ModelConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        jax.default_backend() != "gpu",
        reason=f"jax runs on {jax.default_backend()}; with a GPU: JAX_PLATFORMS=cuda,cpu pytest -m gpu",
    ),
]


def passed(config: Config, kind: str) -> None:
    found = correctness.measure(config, items=200, only=[kind])
    assert found["passed"], [check for check in found["checks"] if not check["passed"]]


def config(**model) -> Config:
    """Heads of 64 numbers, as cuDNN takes them."""
    sizes = {"layers": 2, "width": 128, "heads": 2, "max_length": 64, "aligned_start": False}
    return dataclasses.replace(small.config(), model=ModelConfig(**sizes | model))


def test_loss_and_gradients_are_those_of_the_cpu():
    passed(config(), "gradients")


@pytest.mark.parametrize("width", [64, 128, 256])
def test_every_kind_of_attention_gives_the_same_values_and_gradients(width):
    passed(config(heads=2, width=2 * width), "attention")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_ends_as_an_unbroken_one(dtype):
    passed(config(compute_dtype=dtype), "resume")
